"""A mapping that nobody changes, and that can still leave its process."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Frozen(dict[K, V]):
    """A dict that refuses changes.

    Records hold these instead of `types.MappingProxyType`, which can be neither pickled nor copied:
    `pickle`, `copy.deepcopy` and `dataclasses.asdict` of a record work, and JSON writes it as an object.
    """

    def __reduce__(self) -> tuple[type[Frozen[K, V]], tuple[dict[K, V]]]:
        return type(self), (dict(self),)  # the usual way would fill an empty one item by item

    def __copy__(self) -> Frozen[K, V]:
        return self


def _refuse(self: Any, *_: Any, **__: Any) -> NoReturn:
    raise TypeError("This mapping belongs to a frozen record; change a copy: dict(mapping).")


for _name in (
    "__setitem__",
    "__delitem__",
    "__ior__",
    "clear",
    "pop",
    "popitem",
    "setdefault",
    "update",
):
    setattr(Frozen, _name, _refuse)
