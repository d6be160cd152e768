"""Knorm: keep the keys with the smallest norm."""

from __future__ import annotations

from dataclasses import dataclass

from hermes_lab.policies.base import LayerView, Need, Policy, Scores
from hermes_lab.policies.parts.scoring import by_head, keys_of


@dataclass(frozen=True, kw_only=True)
class Knorm(Policy):
    """Keep the tokens with the smallest key norm: s_j = -‖k_j‖₂. Source: arXiv 2406.11430."""

    title = "smallest key norm"
    source = "L2-norm (arXiv 2406.11430)"
    licence = "Apache-2.0 (kvpress)"
    needs = frozenset({Need.KEYS})
    per_head = True

    def score(self, view: LayerView) -> Scores:
        """Minus the L2 norm of each key (rotation leaves it unchanged)."""
        norm = by_head(-keys_of(view).norm(dim=-1), view)
        return Scores(norm, {"minus_key_norm": norm})
