"""LagKV: keep tokens whose keys and values spread most, measured against the partition that follows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from hermes_lab.policies.base import LayerView, Need, Policy, Scores, setting
from hermes_lab.policies.parts.scoring import by_head, keys_of, values_of


@dataclass(frozen=True, kw_only=True)
class LagKV(Policy):
    """Score each partition of the cache relative to the next one; needs no attention.

    Per channel, a token is scaled by the minimum and maximum of the *following* partition; its score is the standard
    deviation over channels, softmaxed over the partition, mean of keys and values. Sinks and the last partition (which
    has no follower) stay. Source: LagKV (arXiv 2504.04704).
    """

    sink_tokens: int = setting(4, "Oldest video tokens that always stay (kvpress 0.5).", minimum=0)
    lag_tokens: int | None = setting(
        128, "Tokens of a partition (kvpress 0.5); None: those of one frame.", minimum=1
    )
    across: bool = setting(
        False,
        "Compare scores across partitions; False: by rank inside each, so that all keep the same share (kvpress 0.5).",
    )

    title = "spread of keys and values relative to the next partition"
    source = "LagKV (arXiv 2504.04704)"
    licence = "Apache-2.0 (kvpress)"
    needs = frozenset({Need.KEYS, Need.VALUES})
    per_head = True

    def score(self, view: LayerView) -> Scores:
        """Lag-relative spread; with fewer than two partitions there is nothing to compare, and the newest stay."""
        lag = self.lag_tokens or view.tokens_per_frame
        sinks = min(self.sink_tokens, view.tokens)
        partitions = (view.tokens - sinks) // lag
        keys, values = keys_of(view), values_of(view)
        if partitions < 2:
            rank = torch.arange(view.tokens, device=keys.device)
            recency = (
                (rank / max(view.tokens, 1)).masked_fill(rank < sinks, 1.0).expand(view.ids.shape)
            )
            return Scores(recency, {"recency": recency})
        end = sinks + partitions * lag
        parts = [
            _spread(rearrange(x[:, sinks:end], "h (partition lag) d -> h partition lag d", lag=lag))
            for x in (keys, values)
        ]
        spread = (parts[0] + parts[1]) / 2
        ranked = spread
        if not self.across:
            ranked = spread.argsort(dim=-1, stable=True).argsort(dim=-1).to(spread.dtype) / lag
        scored = slice(sinks, end - lag)
        total = keys.new_ones(keys.shape[:2])
        term = keys.new_zeros(keys.shape[:2])
        total[:, scored], term[:, scored] = ranked.flatten(1), spread.flatten(1)
        return Scores(by_head(total, view), {"spread": by_head(term, view)})


def _spread(
    states: Float[Tensor, "kv_head partition token dim"],
) -> Float[Tensor, "kv_head scored token"]:
    """Softmax over each partition of the channel-wise standard deviation, in the range of the next partition."""
    reference, scored = states[:, 1:], states[:, :-1]
    low, high = reference.amin(2, keepdim=True), reference.amax(2, keepdim=True)
    relative = (scored - low) / (high - low).clamp_min(1e-6)
    return relative.std(-1).softmax(-1)
