"""The linear pieces between a head's values and the logits, with what is not linear held at its value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.engine.cache import LayerState
from hermes_lab.engine.upstream import block_of, output_projection
from hermes_lab.engine.weights import norm_behind, output_weights

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession


def norm_gain(norm: Any, x: Float[Tensor, "row hidden"]) -> Float[Tensor, "row hidden"]:
    """What an RMS norm multiplies each channel of `x` by: its weight over the root mean square of `x`.

    The weight is read off the module's answer to a constant, so that families which store it differently need
    no case of their own.
    """
    weight = norm(torch.full_like(x[:1], 1e3))  # large, so that the norm's epsilon does not count
    weighted = weight * x
    scale = (norm(x) * weighted).sum(-1, keepdim=True) / weighted.square().sum(-1, keepdim=True)
    return weight * scale


def write_weights(
    session: StreamSession, layer: int, z: Float[Tensor, "row query_head dim"]
) -> tuple[Float[Tensor, "query_head dim hidden"], Float[Tensor, "row hidden"]]:
    """A layer's output projection by head, and what its sum is multiplied by on its way to the residual stream.

    The factor is one, except where a norm follows the projection (Gemma 3), which is held at what it did to the
    rows `z` (`hook_z`).
    """
    block = session.engine.adapter.layers[layer]
    attention = block_of(block).attention
    weights = output_weights(attention)
    out = output_projection(attention)(z.flatten(1))
    norm = norm_behind(block)
    return weights, torch.ones_like(out) if norm is None else norm_gain(norm, out)


def values_by_head(state: LayerState, query_heads: int) -> Float[Tensor, "query_head token dim"]:
    """Cached values, repeated for the query heads that share them."""
    assert state.values is not None
    values = state.values[0]
    return values.repeat_interleave(query_heads // values.shape[0], 0)


def ids_by_head(state: LayerState, query_heads: int) -> Int[Tensor, "query_head token"]:
    """Global ids of the tokens that each query head sees, -1 for the question's own."""
    ids = state.ids
    return ids.repeat_interleave(query_heads // ids.shape[0], 0)
