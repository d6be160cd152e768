"""Being told to end: SIGTERM and SIGHUP become an exception, so that what is open is closed with its true reason."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, ParamSpec

from hermes_lab.cli.console import errors

P = ParamSpec("P")

_SIGNALS = ("SIGTERM", "SIGHUP")


class EndedBySignal(KeyboardInterrupt):
    """Another process, or the terminal that went away, ends this one."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def listening() -> Generator[None]:
    """Inside the block the first such signal raises `EndedBySignal`; a second one ends the process at once.

    A signal that is ignored (SIGHUP under nohup) stays so. Only the main thread can listen.
    """
    before: dict[int, Any] = {}

    def end(number: int, frame: object) -> None:
        for one in before:
            signal.signal(one, signal.SIG_DFL)
        raise EndedBySignal(number)

    if threading.current_thread() is threading.main_thread():
        known = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
        for number in known:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ends_when_told(command: Callable[P, int]) -> Callable[P, int]:
    """A command that closes what it has open when it is told to end; its status is 128 and the signal's number."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            with listening():
                return command(*args, **kwargs)
        except EndedBySignal as ended:
            errors.print(f"Interrupted: {ended}.")
            return 128 + ended.number

    return run
