"""TOVA: keep what the last query attends to."""

from __future__ import annotations

from dataclasses import dataclass

from hermes_lab.policies.base import LayerView, Need, Policy, Scores
from hermes_lab.policies.parts.scoring import rows_of


@dataclass(frozen=True, kw_only=True)
class Tova(Policy):
    """Keep the tokens that the newest query attends to, averaged over all heads: s_j = mean_h a_last,j.

    The newest query is the chunk's last visual token; the paper evicts after every token, here once per chunk.
    Source: TOVA (arXiv 2401.06104).
    """

    title = "attention of the last query"
    source = "TOVA (arXiv 2401.06104)"
    licence = "Apache-2.0 (kvpress)"
    needs = frozenset({Need.CHUNK_ATTENTION})
    attention_detail = "mean"

    @property
    def window_queries(self) -> int | None:
        """One query."""
        return 1

    def score(self, view: LayerView) -> Scores:
        """Attention of the last query, mean over heads."""
        attention = rows_of(view, "chunk")[:, -1].mean(0, keepdim=True)
        return Scores(attention, {"attention": attention})
