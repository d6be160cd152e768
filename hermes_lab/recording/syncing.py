"""Write files in a thread of their own, and have the disk keep them behind the back of who wrote them.

A file that was renamed into place outlives its process at once. To outlive a power failure the disk must have
it too, and waiting for that takes longer than all else that recording a step does. Signals reach the main thread
alone: a Ctrl-C ends the wait for a write, never the write itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from hermes_lab.files import sync
from hermes_lab.recording.parts import write_whole

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Syncer:
    """Does one thing after the other; never more than one file is not known to be on disk.

    Attributes:
        unsure: the file that the disk has not been heard to keep yet, and its bytes.
    """

    def __init__(self) -> None:
        self.unsure: tuple[Path, bytes] | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._busy = False

    def run(self, work: Callable[[], T]) -> T:
        """Do something in the thread and wait until it is done, or until the wait is interrupted.

        Raises:
            whatever `work` raises.
        """
        self.drain()

        def guarded() -> T:
            try:
                return work()
            finally:
                self._busy = False

        self._busy = True
        return self._submit(guarded).result()

    def drain(self) -> None:
        """Wait for something whose own wait was interrupted."""
        if self._busy:
            self._submit(lambda: None).result()
            self._busy = False

    def write(self, path: Path, data: bytes) -> None:
        """Within `run`: write a file whole and have the disk keep it later, once it has the file before.

        Raises:
            OSError: the disk refuses this file, or refused the one before and does so again.
        """
        self.settle()
        write_whole(path, data, durable=False)
        self.unsure = path, data
        self._submit(self._keep)

    def settle(self) -> None:
        """Within `run`: make sure that the disk has everything.

        Raises:
            OSError: it refused a file, and refuses it again.
        """
        if self.unsure is not None:
            # once it has refused to keep a file, the system may have thrown the bytes away: again from the start
            write_whole(*self.unsure)
            self.unsure = None

    def close(self) -> None:
        """Let the thread go."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.shutdown()

    def _keep(self) -> None:
        if self.unsure is None:
            return
        path, _ = self.unsure
        try:
            sync(path)
            self.unsure = None
        except OSError as error:
            _LOG.debug("%s was not kept and will be written again: %s", path, error)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        try:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, "recording-sync")
            return self._worker.submit(work)
        except RuntimeError:  # Python is about to end, or the system has no thread left
            self._worker = None
            return _done(work)


def _done(work: Callable[[], T]) -> Future[T]:
    """Work that was done at once."""
    future: Future[Any] = Future()
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)
    return future
