"""Attention knockout: tokens that queries may not attend to, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from hermes_lab.engine.passes import Knockout, PassKind
from hermes_lab.errors import LabError, nearest
from hermes_lab.lens.tokens import check_head, check_layer

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession

_PASSES = tuple(
    kind for kind in get_args(PassKind) if kind != "prefix"
)  # over when a session exists


@contextmanager
def knockout(
    session: StreamSession,
    ids: Int[Tensor, " token"] | Int[np.ndarray, " token"] | Sequence[int],
    layers: int | Iterable[int] | None = None,
    heads: int | Iterable[int] | None = None,
    passes: Iterable[str] = ("question",),
) -> Generator[Knockout]:
    """Hide cached tokens from attention inside the block; the weights are renormalised over the rest.

    Args:
        ids: global token ids (see `hermes_lab.lens.tokens`); those that a layer does not hold are ignored there.
        layers: where; None: everywhere.
        heads: query heads; None: all.
        passes: kinds of forward pass: "question" (with its answer), "chunk", "guidance".

    Raises:
        LabError: unknown id, layer, head or pass.
    """
    made = make_knockout(session, ids, layers, heads, passes)
    session.knockouts = (*session.knockouts, made)
    try:
        yield made
    finally:
        session.knockouts = [k for k in session.knockouts if k is not made]


def make_knockout(
    session: StreamSession,
    ids: Int[Tensor, " token"] | Int[np.ndarray, " token"] | Sequence[int],
    layers: int | Iterable[int] | None = None,
    heads: int | Iterable[int] | None = None,
    passes: Iterable[str] = ("question",),
) -> Knockout:
    """A checked knockout that is not in force yet; arguments and errors as for `knockout`."""
    chosen = torch.as_tensor(ids, dtype=torch.long).flatten()
    known = len(session.table)
    if chosen.numel() and not 0 <= int(chosen.min()) <= int(chosen.max()) < known:
        raise LabError(
            f"Token ids must lie between 0 and {known - 1}, got {int(chosen.min())} to {int(chosen.max())}."
        )
    for kind in (kinds := tuple(passes)):
        if kind not in _PASSES:
            raise LabError(f"There is no kind of pass {kind!r}: {nearest(kind, _PASSES)}")
    return Knockout(
        ids=chosen,
        layers=None if layers is None else frozenset(check_layer(session, n) for n in _all(layers)),
        heads=None if heads is None else tuple(check_head(session, n) for n in _all(heads)),
        passes=frozenset(kinds),
    )


def _all(numbers: int | Iterable[int] | Any) -> list[int]:
    return [numbers] if isinstance(numbers, int) else [int(n) for n in numbers]
