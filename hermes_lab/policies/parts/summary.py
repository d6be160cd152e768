"""The summary token of HERMES (arXiv 2601.14724, Algorithm 1): what a layer evicts, folded into one token."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Merged


def evicted(view: LayerView, kept: Int[Tensor, "head kept"]) -> Int[Tensor, "head gone"]:
    """Indices of the candidates that are not kept, in temporal order, for each token set."""
    gone = ~_mask(view, kept)
    return gone.nonzero()[:, 1].reshape(gone.shape[0], -1)


def behind_kept(view: LayerView, kept: Int[Tensor, "head kept"]) -> Int[Tensor, " axis"]:
    """One position behind the last kept token of any token set, on each rotary axis; 0 where none is kept."""
    return view.positions.masked_fill(~_mask(view, kept)[:, None], -1).amax((0, 2)) + 1


def folded(
    view: LayerView,
    gone: Int[Tensor, "head gone"],
    keys: Float[Tensor, "kv_head token dim"],
    values: Float[Tensor, "kv_head token dim"],
    at: Int[Tensor, " axis"],
    place: Literal["end", "sorted"] = "end",
) -> Merged:
    """One token out of the evicted ones: the mean of their values, and the mean of their keys rotated to `at`.

    Each KV head folds the tokens that it evicts itself. Keys are rotated in the dtype that they are given in, and the
    means are taken in fp32; the token has the dtype of the cache.

    Raises:
        PolicyError: the view has no keys or values, which the policy must ask for.
    """
    if view.keys is None or view.values is None or view.rotate is None:
        raise PolicyError(
            "A policy that folds tokens into a summary must declare Need.KEYS and Need.VALUES in its `needs`."
        )
    heads, axes = view.positions.shape[:2]
    old = view.positions.gather(2, gone[:, None].expand(-1, axes, -1))
    turned = view.rotate(_taken(keys, gone), old, at[None, :, None].expand(heads, axes, 1))
    sources = view.ids.gather(1, gone)
    return Merged(
        keys=turned.float().mean(1, keepdim=True).to(view.keys.dtype),
        values=_taken(values, gone).float().mean(1, keepdim=True).to(view.values.dtype),
        positions=at[:, None],
        sources=(sources[0] if len(sources) == 1 else sources.unique(),),
        place=place,
    )


def _taken(
    states: Float[Tensor, "kv_head token dim"], index: Int[Tensor, "head some"]
) -> Float[Tensor, "kv_head some dim"]:
    """Keys or values of some tokens, which may lie on another device than the ids."""
    index = index.to(states.device)
    if index.shape[0] == 1:
        return states.index_select(1, index[0])
    return states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))


def _mask(view: LayerView, index: Int[Tensor, "some_head some"]) -> Bool[Tensor, "head token"]:
    """True at the given candidates; one row of them stands for all token sets."""
    heads = view.ids.shape[0]
    mask = torch.zeros(heads, view.tokens, dtype=torch.bool, device=view.ids.device)
    return mask.scatter_(1, index.expand(heads, -1), True)
