"""PyramidKV: SnapKV's score, with budgets that shrink linearly with depth."""

from __future__ import annotations

from dataclasses import dataclass

from hermes_lab.policies.base import setting
from hermes_lab.policies.parts.scoring import whole
from hermes_lab.policies.snapkv import SnapKV


@dataclass(frozen=True, kw_only=True)
class PyramidKV(SnapKV):
    """Give lower layers more of the same total budget; score as SnapKV.

    With C the mean budget and w the window: b_min = (C - w) / β in the last layer, b_max = 2 (C - w) - b_min in the
    first, linear between, plus w in each. Source: PyramidKV (arXiv 2406.02069).
    """

    beta: float = setting(
        20.0,
        "Steepness of the pyramid: the last layer gets (C - w) / beta (kvpress 0.5).",
        minimum=1.0,
    )

    title = "SnapKV with budgets that shrink with depth"
    source = "PyramidKV (arXiv 2406.02069)"

    def budgets(self, layers: int) -> list[int] | None:
        """Linear in depth with the total `layers * budget_tokens`; equal where the window alone fills the budget."""
        if self.budget_tokens is None:
            return None
        spare = self.budget_tokens - self.window_tokens
        if spare <= 0 or layers == 1:
            return [self.budget_tokens] * layers
        low = spare / self.beta
        high = 2 * spare - low
        exact = [high - (high - low) * layer / (layers - 1) for layer in range(layers)]
        return [self.window_tokens + b for b in whole(exact, layers * spare)]
