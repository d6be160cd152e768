"""DSCache: a sliding cache of past frames, and the last frames read again on the system prompt alone."""

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
    RecallView,
    Scores,
    computed,
    setting,
)
from hermes_lab.policies.parts.blocks import frame_blocks, owners
from hermes_lab.policies.parts.scoring import recency


@dataclass(frozen=True, kw_only=True)
class DSCache(Policy):
    """Answer from [system prompt, cumulative cache, instant cache].

    The cumulative cache slides over whole frames. The instant cache is made at the question: the last frames are
    prefilled again with only the system prompt before them, so that old context does not leak into them; their cached
    versions are hidden. Source: DSCache (arXiv 2605.01858).

    Deviations: the last frames are re-read at the resolution they came in (the released code re-reads the very last one at
    another, doubled for Qwen2.5-VL); frames are prefilled as they come, where the released code prefills a frame into the
    cumulative cache when it leaves the instant one, and holds one frame more there than it is asked to.
    """

    context_frames: int = setting(
        28,
        "Frames of the cumulative cache (paper; the scripts take 12 to 24 by benchmark).",
        minimum=1,
    )
    recent_frames: int = setting(4, "Last frames that are read again (paper).", minimum=1)
    stride: int = setting(
        1, "Every n-th frame of the cumulative cache is read (released option ls_n).", minimum=1
    )

    title = "sliding cache of frames, last frames read again"
    source = "DSCache (arXiv 2605.01858)"
    licence = "no licence file"
    granularity = "frame"
    default_positions = "eager"
    recalls = computed(lambda policy: policy.stride > 1)

    def budgets(self, layers: int) -> list[int] | None:
        """The budget, if any; the limit itself is in frames."""
        return [self.budget_tokens or UNBOUNDED] * layers

    def due(self, tokens: Sequence[int], budgets: Sequence[int]) -> bool:
        """After every chunk."""
        return True

    def score(self, view: LayerView) -> Scores:
        """Recency."""
        return recency(view)

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """The frames of both caches: those read again slide into the cumulative one as they age."""
        oldest = view.frames_seen - self.context_frames - self.recent_frames
        places = (owners(view.frame[0]) >= oldest).nonzero()[:, 0]
        kept = places[max(0, len(places) - count) :]
        return kept.expand(view.ids.shape[0], -1)

    def read_plan(self) -> ReadPlan:
        """The last frames again, in place of their cached versions."""
        return ReadPlan(recent_frames=self.recent_frames, replaces=True)

    def recall(self, question: RecallView) -> Int[Tensor, "head recalled"] | None:
        """Every n-th frame of the cumulative cache, its newest n frames giving their oldest, as released."""
        view = question.view
        blocks = frame_blocks(view.frame[0])
        past = blocks.frame < view.frames_seen - self.recent_frames
        number = past.long().cumsum(0) - 1
        chosen = past & ((number - int(past.sum())) % self.stride == 0)
        return blocks.tokens(chosen | ~past)[None].expand(view.ids.shape[0], -1)
