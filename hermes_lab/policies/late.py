"""Fields of a view that are made when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast, overload

T = TypeVar("T")


class Late(Generic[T]):
    """A field of a dataclass that may be given as a function, which is called when the field is first read.

    A view shows copies and looks tokens up: of a large cache all keys and values would cost as much memory again,
    and many policies look at few layers, or at nothing but the order.

    Args:
        default: what the field is where nothing is given; none: it must be given.
    """

    def __init__(self, *default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, view: None, owner: type) -> T: ...
    @overload
    def __get__(self, view: object, owner: type) -> T: ...
    def __get__(self, view: object | None, owner: type) -> T:
        if view is None:  # dataclasses ask for the default, and take this error for "none"
            if not self._default:
                raise AttributeError(self._name)
            return self._default[0]
        known: dict[str, Any] = vars(view)
        if callable(known[self._name]):
            known[self._name] = known[self._name]()
        return cast(T, known[self._name])

    def __set__(self, view: object, value: T | Callable[[], T]) -> None:
        vars(view)[self._name] = value
