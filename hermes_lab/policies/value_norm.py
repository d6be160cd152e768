"""Value norm alone: half of InfiniPot-V."""

from __future__ import annotations

from dataclasses import dataclass

from hermes_lab.policies.base import LayerView, Need, Policy, Scores
from hermes_lab.policies.parts.scoring import by_head, values_of


@dataclass(frozen=True, kw_only=True)
class ValueNorm(Policy):
    """Keep the tokens with the largest value norm: s_j = ‖v_j‖₂. Source: InfiniPot-V (arXiv 2506.15745), VaN alone."""

    title = "largest value norm"
    source = "InfiniPot-V (arXiv 2506.15745), VaN"
    licence = "no licence file"
    needs = frozenset({Need.VALUES})
    per_head = True

    def score(self, view: LayerView) -> Scores:
        """L2 norm of each value."""
        norm = by_head(values_of(view).norm(dim=-1), view)
        return Scores(norm, {"value_norm": norm})
