"""H2O: keep the tokens that have received the most attention so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Need, Policy, Scores, setting
from hermes_lab.policies.parts.scoring import by_head, lifted, newest


@dataclass(frozen=True, kw_only=True)
class H2O(Policy):
    """Keep heavy hitters: tokens with the largest attention received, summed over the whole stream.

    s_j = Σ_i a_ij / (number of queries i that saw j), mean over the query heads of a KV group; sum and count are
    carried with each survivor. Source: H2O (arXiv 2306.14048), in the averaged form of kvpress' ObservedAttention.
    """

    average: bool = setting(
        True,
        "Divide by the number of queries that saw the token (kvpress 0.5); False: the bare sum of the paper.",
    )
    recent_share: float = setting(
        0.0,
        "Share of the budget kept for the newest tokens (kvpress 0.5: none; the paper's experiments: 0.5).",
        minimum=0.0,
        maximum=1.0,
    )

    title = "most attention received so far"
    source = "H2O (arXiv 2306.14048)"
    licence = "Apache-2.0 (kvpress)"
    needs = frozenset({Need.RECEIVED_ATTENTION})
    per_head = True

    def observe(self, view: LayerView) -> Mapping[str, Float[Tensor, "head token"]]:
        """Running sum of attention received, and of the queries that could have given it."""
        if view.received is None or view.received_queries is None:
            raise PolicyError(
                "Policy 'h2o' reads attention received, but the layer view has none of it."
            )
        received = by_head(view.received, view)
        queries = view.received_queries.float().expand(received.shape)
        return {
            "h2o_sum": _before(view, "h2o_sum", received) + received,
            "h2o_queries": _before(view, "h2o_queries", received) + queries,
        }

    def score(self, view: LayerView) -> Scores:
        """Attention received, averaged over the queries that saw the token."""
        total, queries = view.carried["h2o_sum"], view.carried["h2o_queries"]
        received = total / queries.clamp_min(1) if self.average else total
        recent = newest(int(self.recent_share * view.budget(self.budget_tokens)), received)
        return Scores(
            lifted(received, recent), {"received": received, "recent": recent.to(received.dtype)}
        )


def _before(view: LayerView, name: str, like: Tensor) -> Tensor:
    state = view.carried.get(name)
    return torch.zeros_like(like) if state is None else state.nan_to_num(0.0)
