"""Tensors of a view that are made when somebody looks at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

from jaxtyping import Float
from torch import Tensor


class Late:
    """A field of a dataclass for a tensor or a function that makes it, which is called when the field is first read.

    Keys and values are shown as copies: of a large cache those of all layers would cost as much memory again, and
    many policies look at few layers.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, view: None, owner: type) -> None: ...
    @overload
    def __get__(self, view: object, owner: type) -> Float[Tensor, "kv_head token dim"] | None: ...
    def __get__(self, view: object | None, owner: type) -> Tensor | None:
        if view is None:
            return None  # what a view has where nothing is given
        known = vars(view)
        if callable(known[self._name]):
            known[self._name] = known[self._name]()
        return known[self._name]

    def __set__(self, view: object, value: Tensor | Callable[[], Tensor] | None) -> None:
        vars(view)[self._name] = value
