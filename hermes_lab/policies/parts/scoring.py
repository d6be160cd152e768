"""Steps that several scores share: reading by head, lifting tokens that must stay, pooling along the order."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Scores


def by_head(
    values: Float[Tensor, "any_head token"], view: LayerView
) -> Float[Tensor, "head token"]:
    """Values of query heads or KV heads as one row for each token set of the layer.

    Query heads of one KV group are averaged; where all heads share one token set, all are averaged.
    """
    heads = view.ids.shape[0]
    return values.float().unflatten(0, (heads, -1)).mean(1)


def rows_of(view: LayerView, name: str) -> Float[Tensor, "query_head row token"]:
    """Attention rows of a guidance or of the chunk.

    Raises:
        PolicyError: the view holds no such rows.
    """
    if name not in view.attention:
        raise PolicyError(
            f"The layer view has no attention rows {name!r}; declare the need for them in `needs`."
        )
    return view.attention[name].float()


def keys_of(view: LayerView) -> Float[Tensor, "kv_head token dim"]:
    """Cached keys in fp32.

    Raises:
        PolicyError: the policy did not ask for keys.
    """
    if view.keys is None:
        raise PolicyError("A policy that reads keys must declare Need.KEYS in its `needs`.")
    return view.keys.float()


def values_of(view: LayerView) -> Float[Tensor, "kv_head token dim"]:
    """Cached values in fp32.

    Raises:
        PolicyError: the policy did not ask for values.
    """
    if view.values is None:
        raise PolicyError("A policy that reads values must declare Need.VALUES in its `needs`.")
    return view.values.float()


def lifted(
    total: Float[Tensor, "head token"], mask: Bool[Tensor, "head token"]
) -> Float[Tensor, "head token"]:
    """Scores with the masked tokens above all others, the order inside both parts unchanged."""
    span = total.max() - total.min() + 1 if total.numel() else 0
    return total + mask.to(total.dtype) * span


def newest(count: int, like: Float[Tensor, "head token"]) -> Bool[Tensor, "head token"]:
    """A mask of the last `count` tokens."""
    tokens = like.shape[-1]
    return (torch.arange(tokens, device=like.device) >= tokens - count).expand(like.shape)


def average_pool(values: Float[Tensor, "head token"], kernel: int) -> Float[Tensor, "head token"]:
    """Mean over a centred window along the token order; places beyond the ends count as zero."""
    if values.shape[-1] == 0 or kernel == 1:
        return values
    return torch.nn.functional.avg_pool1d(values, kernel, stride=1, padding=kernel // 2)


def recency(view: LayerView) -> Scores:
    """The rank of each token in temporal order, newest highest."""
    rank = torch.arange(view.tokens, dtype=torch.float32, device=view.ids.device)
    order = rank.expand(view.ids.shape)
    return Scores(order, {"recency": order})


def whole(
    exact: list[float], total: int, *, ties: Literal["shallow", "deep"] = "shallow"
) -> list[int]:
    """Whole numbers nearest to `exact`, one for each layer, with exactly the given total: largest remainders first.

    Args:
        ties: which of several layers with the same remainder is rounded up first.
    """
    floors = [int(value) for value in exact]
    sign = 1 if ties == "shallow" else -1
    order = sorted(range(len(exact)), key=lambda i: (floors[i] - exact[i], sign * i))
    for i in order[: max(0, total - sum(floors))]:
        floors[i] += 1
    return floors


SHALLOW_UNTIL, DEEP_FROM = 0.1, 0.7
"""Shares of the depth at which HERMES' bands meet (arXiv 2601.14724, §3.1)."""


def edges_of(
    layers: int, shallow: float = SHALLOW_UNTIL, deep: float = DEEP_FROM
) -> tuple[int, int]:
    """First middle layer and first deep layer of a model, both shares of its depth rounded down."""
    return int(shallow * layers), int(deep * layers)


def band_of(layer: int, layers: int, edges: tuple[int, int] | None = None) -> int:
    """0 for shallow layers, 1 for middle ones, 2 for deep ones, at HERMES' edges (see `edges_of`) or at given ones."""
    middle, deep = edges or edges_of(layers)
    return int(layer >= middle) + int(layer >= deep)
