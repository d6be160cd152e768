"""First in, first out: keep the newest tokens."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from hermes_lab.policies.base import LayerView, Policy, Scores, setting, top_newest
from hermes_lab.policies.parts.scoring import recency


@dataclass(frozen=True, kw_only=True)
class Fifo(Policy):
    """Keep the newest tokens. Source: baseline (the sliding window of HERMES' study, arXiv 2601.14724, §2)."""

    whole_frames: bool = setting(
        False, "Keep only frames that fit whole; the rest of the budget stays empty."
    )

    title = "newest tokens"
    source = "baseline"

    def score(self, view: LayerView) -> Scores:
        """Age alone: the rank of each token in temporal order, newest highest."""
        return recency(view)

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """The newest `count`; with `whole_frames` less the oldest kept frame where it was cut.

        A budget smaller than the newest frame keeps that frame's newest tokens.
        """
        kept = top_newest(scores.total, count)
        if not self.whole_frames or count >= view.tokens:
            return kept
        first = view.tokens - count  # all heads share the order, so one cut serves them
        frame = view.filled_frame[0]
        if frame[first] != frame[first - 1]:
            return kept
        later = (frame[first:] != frame[first]).nonzero()
        return kept[:, int(later[0]) :] if len(later) else kept
