"""What a policy says of itself: constants of its class, or values that follow from its fields."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar, cast

T = TypeVar("T")


class _Computed(cached_property[T]):
    """On a policy: the value for its fields, worked out once. On the class: the value for its default fields.

    Where a field must be given, so that there is no default policy, the class says `otherwise`, or what its parent
    class says.
    """

    def __init__(self, compute: Callable[[Any], T], otherwise: T | None) -> None:
        super().__init__(compute)
        self._otherwise = otherwise

    def __set_name__(self, owner: type[Any], name: str) -> None:
        super().__set_name__(owner, name)
        self._home, self._name = owner, name

    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> Any:
        if instance is not None or owner is None:
            return super().__get__(instance, owner)
        try:
            example = owner()
        except Exception:  # whatever the construction of a policy without its fields may raise
            above = getattr(super(self._home, owner), self._name)
            return above if self._otherwise is None else self._otherwise
        return getattr(example, self._name)


def computed(compute: Callable[[Any], T], *, otherwise: T | None = None) -> T:
    """A class attribute of a policy that follows from its fields, so that listings and the engine read the same.

    It stands where a constant would stand, which is why it is typed as one:

        needs = computed(lambda policy: frozenset({Need.KEYS} if policy.by_key else ()))

    Args:
        compute: the value, given a policy whose fields are final.
        otherwise: what holds whatever the fields are, for listings of a policy that has no default fields; None: what
            the parent class says.
    """
    return cast(Any, _Computed(compute, otherwise))
