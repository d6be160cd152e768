"""What pages ask of the thread that runs a stream: a queue that can be closed, so that nobody waits for an answer in vain."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Command = Callable[[], None]


def nothing() -> None:
    """A command that only wakes whoever waits for one."""


class Commands:
    """Commands in the order in which they came. Any thread may put them; one thread takes them and closes the queue."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Command] = queue.Queue()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, command: Command, first: Command = nothing) -> bool:
        """Add a command; False where nobody takes one any more. `first` is done here, before it can be taken."""
        with self._lock:
            if self._closed:
                return False
            first()
            self._queue.put(command)
            return True

    def take(self, wait_s: float = 0.0) -> Command | None:
        """The oldest command; None where none came in so many seconds."""
        try:
            return self._queue.get(wait_s > 0, wait_s or None)
        except queue.Empty:
            return None

    def close(self) -> list[Command]:
        """Take no more; returns those that were left."""
        with self._lock:
            self._closed = True
        left: list[Command] = []
        while (command := self.take()) is not None:
            left.append(command)
        return left
