"""Values of a record that are worked out when somebody first looks at them, and not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class Later(Generic[T]):
    """A value that is made on first sight, once; what it is made of is let go then."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make: Callable[[], T] | None = make
        self._value: T | None = None

    def get(self) -> T:
        """The value."""
        make = self._make
        if make is not None:  # two threads may both make it; both results are right
            self._value = make()
            self._make = None
        return cast(T, self._value)

    def again(self) -> Callable[[], T] | None:
        """What makes the value, for an owner who wants one of his own; None: it was made and let go."""
        return self._make


def later(make: Callable[[], T]) -> T:
    """A `Later`, with the type that a field made `on_sight` shows it with."""
    return cast(T, Later(make))


def on_sight(kind: type, *names: str) -> None:
    """Let some fields of a frozen dataclass take a `Later` and always show the value."""
    for name in names:
        setattr(kind, name, _OnSight(name))


def unseen(record: object, name: str) -> Later[Any] | None:
    """The `Later` in a field that nobody has looked at yet; None: there is a value."""
    kept = record.__dict__[name]
    return cast("Later[Any]", kept) if isinstance(kept, Later) else None


class _OnSight:
    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, record: object | None, owner: type) -> Any:
        if record is None:
            return self
        kept = record.__dict__[self._name]
        if isinstance(kept, Later):
            kept = record.__dict__[self._name] = cast("Later[Any]", kept).get()
        return kept

    def __set__(self, record: object, value: Any) -> None:
        record.__dict__[self._name] = value
