"""The honest baseline: answer from the last few frames alone (SimpleStream)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from hermes_lab.policies.base import (
    UNBOUNDED,
    LayerView,
    Policy,
    ReadPlan,
    Scores,
    setting,
    top_newest,
)


@dataclass(frozen=True, kw_only=True)
class RecentFrames(Policy):
    """Prefill the last frames again at each question and read nothing else. Source: SimpleStream (arXiv 2604.02317).

    The cache is not read, so it is only held to the same number of frames to bound memory.
    """

    frames: int = setting(
        4, "Frames read at a question (2, 4 and 8 in arXiv 2604.02317; 4 is its best).", minimum=1
    )

    title = "last N frames, prefilled at the question"
    source = "SimpleStream (arXiv 2604.02317)"
    granularity = "frame"

    def budgets(self, layers: int) -> list[int]:
        """None in tokens: `select` limits frames, and tokens where `budget_tokens` is given as well."""
        return [UNBOUNDED] * layers

    def due(self, tokens: Sequence[int], budgets: Sequence[int]) -> bool:
        """After every chunk, since the limit is in frames; deciding costs nothing."""
        return True

    def score(self, view: LayerView) -> Scores:
        """The frame of each token, newest highest."""
        frame = view.filled_frame.float()
        return Scores(frame, {"frame": frame})

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """The tokens of the newest `frames` frames; the newest `budget_tokens` of them where given."""
        frame = view.filled_frame[0]
        held = int((frame > frame[-1] - self.frames).sum())
        return top_newest(scores.total, min(count, held, self.budget_tokens or UNBOUNDED))

    def read_plan(self) -> ReadPlan:
        """The last frames on the system prefix, without the cache."""
        return ReadPlan(recent_frames=self.frames, use_cache=False)
