"""Keep everything: the reference that every other policy is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Policy, Scores


@dataclass(frozen=True, kw_only=True)
class Full(Policy):
    """Keep every token; the cache grows with the stream. Source: baseline."""

    title = "keep everything"
    source = "baseline"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget_tokens is not None:
            raise PolicyError(
                f"Policy 'full' keeps everything and takes no budget, got {self.budget_tokens}; "
                "use 'fifo' or another policy to hold to a budget."
            )

    def bounded(self, budget_tokens: int, layers: int) -> Policy:
        """Itself: keeping everything is what it is for."""
        return self

    def score(self, view: LayerView) -> Scores:
        """The same for all tokens; never used to rank, since there is no budget."""
        return Scores(view.time_s.new_ones(view.ids.shape))
