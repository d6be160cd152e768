"""ReKV: forget nothing, and retrieve the frames that match the question, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from hermes_lab.policies.base import LayerView, Need, Policy, RecallView, Scores, setting
from hermes_lab.policies.parts.recall import recall_frames
from hermes_lab.policies.parts.scoring import recency


@dataclass(frozen=True, kw_only=True)
class ReKV(Policy):
    """Encode with a sliding window; keep all the rest off the device, and give a question its best frames.

    For each layer, frame b scores q̄ · r_b: q̄ is the mean un-rotated query of the question, r_b the mean un-rotated
    key of the frame, heads concatenated. The retrieved frames stand in order and are renumbered without gaps.
    Source: ReKV (arXiv 2503.00540).

    Deviation: evicted frames leave the window after a chunk, and the window's own positions are compacted, where the
    original gives tokens beyond its window one constant distance.
    """

    budget_tokens: int | None = setting(
        15_000, "Tokens of the sliding window while encoding (released code).", minimum=1
    )
    recall_frames: int = setting(
        64, "Frames that a question reads in each layer (released code).", minimum=1
    )
    unit_frames: int = setting(
        1, "Consecutive frames retrieved together, by their mean score (released code).", minimum=1
    )
    cosine: bool = setting(
        False,
        "Match by cosine; False: by dot product, which the released code computes under that name.",
    )

    title = "everything stored, best frames retrieved at the question"
    source = "ReKV (arXiv 2503.00540)"
    licence = "no licence file"
    needs = frozenset({Need.KEYS})
    archives = True
    recalls = True
    granularity = "frame"
    default_positions = "eager"

    def score(self, view: LayerView) -> Scores:
        """Recency: the window slides."""
        return recency(view)

    def recall(self, question: RecallView) -> Int[Tensor, "head recalled"] | None:
        """The best frames of cache and archive together."""
        return recall_frames(
            question, self.recall_frames, cosine=self.cosine, unit=self.unit_frames
        )
