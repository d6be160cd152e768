"""Passes whose numbers are no numbers: an overflow ends a step or an answer in one sentence, before it looks like data."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hermes_lab.engine.batches import batches
from hermes_lab.engine.cache import LayerState, StreamCache
from hermes_lab.engine.hooks import HookBoard
from hermes_lab.errors import ModelError, PolicyError
from hermes_lab.models.base import Adapter

_LARGER: Mapping[torch.dtype, str] = {
    torch.float16: "load it with dtype='bfloat16' or dtype='float32'",
    torch.bfloat16: "load it with dtype='float32'",
}


def all_finite(*tensors: Float[Tensor, ...]) -> bool:
    """Whether there is no NaN and no infinity in any of the tensors; one pass over those of a type."""
    for group in batches((t.dtype, t.device) for t in tensors):
        one = tensors[group[0]]
        joined = one if len(group) == 1 else torch.cat([tensors[n].flatten() for n in group])
        if joined.numel():
            low, high = joined.aminmax()  # both are NaN where any number is
            if not (math.isfinite(low.item()) and math.isfinite(high.item())):
                return False
    return True


def check_pass(
    adapter: Adapter,
    hidden: Float[Tensor, "new hidden"],
    states: Sequence[LayerState],
    board: HookBoard | None = None,
) -> None:
    """Look at the final hidden states of a pass: whatever overflows on the way arrives there.

    Args:
        states: what the layers hold after the pass; looked at only where something is wrong.
        board: hook points of the pass, which may be the cause.

    Raises:
        ModelError: some are NaN or infinite; the sentence names the dtype and the first layer.
    """
    if not all_finite(hidden):
        layer = first_layer(states)
        refuse(adapter, len(states) - 1 if layer is None else layer, board)


def check_logits(
    adapter: Adapter, logits: Float[Tensor, "token vocabulary"], board: HookBoard | None = None
) -> None:
    """Look at the largest logit of each token, which is NaN or infinite where any of them overflowed.

    Raises:
        ModelError: it is no number.
    """
    if not all_finite(logits.amax(-1)):
        refuse(adapter, None, board)


def check_rows(
    adapter: Adapter,
    rows: Sequence[tuple[int, Float[Tensor, "query_head row _token"]]],
    apart: bool = False,
) -> None:
    """Look at attention rows of a prompt's pass, which has no final hidden states: those of its last layer tell,
    since a token that is NaN stays so through the layers.

    Args:
        rows: layer and rows, in the order of the layers.
        apart: the layers were not read in one pass; each is looked at.

    Raises:
        ModelError: some are NaN; the sentence names the dtype and the first layer.
    """
    # they are shares of attention: their sum is a number unless one of them is none
    if not all_finite(*(row.sum() for _, row in (rows if apart else rows[-1:]))):
        refuse(adapter, next(layer for layer, row in rows if not all_finite(row)))


@contextmanager
def blame(adapter: Adapter, cache: StreamCache, board: HookBoard | None = None) -> Generator[None]:
    """A policy's failure inside the block is the model's where the cache holds keys or values that are not finite."""
    try:
        yield
    except PolicyError as error:
        layer = first_layer(cache.states)
        if layer is not None:
            refuse(adapter, layer, board, error)
        raise


def first_layer(states: Sequence[LayerState]) -> int | None:
    """The first layer whose keys, values or output are not finite, -1 for the embeddings; None: none is seen."""
    for layer, state in enumerate(states):
        if state.keys is None or state.values is None or all_finite(state.keys, state.values):
            continue
        keys, values = _lost(state.keys), _lost(state.values)
        # a token of which nothing is left came in that way: the layer before is the cause
        return layer - 1 if bool((keys & values.to(keys.device)).any()) else layer
    return None


def refuse(
    adapter: Adapter,
    layer: int | None,
    board: HookBoard | None = None,
    cause: Exception | None = None,
) -> NoReturn:
    """Say where numbers stop being numbers (None: in the logits) and what to do.

    Raises:
        ModelError: always.
    """
    where = f"from layer {layer} on" if layer is not None else "in the logits"
    where = "from the embeddings on" if layer == -1 else where
    what = _LARGER.get(adapter.dtype, "its weights may be damaged")
    if board is not None and not board.quiet:
        what += ", unless a hook made them so"
    raise ModelError(
        f"The activations of {adapter.name or adapter.family} are not finite in "
        f"{str(adapter.dtype).removeprefix('torch.')} {where}, so what follows from them would be garbage; {what}."
    ) from cause


def _lost(states: Float[Tensor, "1 kv_head token dim"]) -> Bool[Tensor, " token"]:
    """Tokens of which no number is finite."""
    return ~states[0].isfinite().any(-1).any(0)
