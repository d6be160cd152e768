"""A session has one owner at a time: other threads wait for their turn, and nobody calls it from inside itself."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from hermes_lab.errors import LabError
from hermes_lab.memory import within_memory

_ADVICE = (
    "nothing was changed and the session can go on; feed fewer frames at once, or smaller ones, give the policy a "
    "smaller budget, or load the model with dtype='bfloat16'"
)
T = TypeVar("T")
P = ParamSpec("P")


class Turns:
    """Hands out the turns of one session.

    Both locks are entered by `with` alone and nothing else is remembered, so that a Ctrl-C at any moment leaves them
    free.

    Attributes:
        alone: held by the thread whose turn it is; a thread may hold it over several calls.
    """

    def __init__(self) -> None:
        self.alone = threading.RLock()
        self._inside = threading.Lock()

    def take(self, what: str, work: Callable[[], T]) -> T:
        """Wait until no other thread works on the session, then do `work`.

        Args:
            what: name of the session's method, for the error.

        Raises:
            LabError: this very thread is at work on the session already.
        """
        with self.alone:
            if self._inside.locked():  # by this thread: any other one would still be waiting above
                raise LabError(
                    f"session.{what}() was called from inside the session's own work, by a policy, a hook or "
                    "on_token; call it between two steps or questions, or ask a fork that was made before."
                )
            with self._inside:
                return work()


class HasTurns(Protocol):
    """Whoever has turns."""

    turns: Turns


S = TypeVar("S", bound=HasTurns)


def turn(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that is one turn of its object; whatever does not fit into memory is told in a sentence."""

    @functools.wraps(method)
    def taken(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with within_memory(f"What session.{method.__name__}() needed", _ADVICE):
            return self.turns.take(method.__name__, lambda: method(self, *args, **kwargs))

    return taken
