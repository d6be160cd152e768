"""Gates that act on whole frames before the decoder: policies of their own, and first parts of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hermes_lab.policies.base import Admission, Arrival, LayerView, Need, Policy, Scores, setting
from hermes_lab.policies.parts.frames import frames_of, merge_similar, whole_frames
from hermes_lab.policies.parts.scoring import recency


@dataclass(frozen=True, kw_only=True)
class EveryNth(Policy):
    """Admit every n-th frame of the stream. Source: baseline (temporal subsampling).

    A family that merges frames into one grid of tokens (Qwen) has each grid counted as one frame.
    """

    stride: int = setting(2, "Frames from one that is admitted to the next.", minimum=1)

    name = "every_nth"
    title = "admit every n-th frame"
    source = "baseline"
    granularity = "frame"

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """The first frame of the stream and every n-th after it."""
        frames, _ = frames_of(arrival)
        number = int(memory.get("seen", 0)) + torch.arange(len(frames), device=frames.device)
        memory["seen"] = int(memory.get("seen", 0)) + len(frames)
        return Admission(whole_frames(arrival, frames[number % self.stride == 0]))

    def score(self, view: LayerView) -> Scores:
        """Recency, where a budget is set."""
        return recency(view)


@dataclass(frozen=True, kw_only=True)
class MergeSimilar(Policy):
    """Average runs of consecutive frames that look alike into one frame, before the decoder.

    A frame joins the run before it when the cosine of their mean features exceeds the threshold; the run enters as its
    newest frame, each cell the mean of the run's embeddings. Source: StreamMem (arXiv 2508.15717), input filter.

    Deviation: runs end with the chunk, since earlier frames are already in the cache.
    """

    similarity: float = setting(
        0.95,
        "Cosine above which consecutive frames merge (StreamMem's δ).",
        minimum=-1.0,
        maximum=1.0,
    )

    name = "merge_similar"
    title = "average consecutive frames that look alike"
    source = "StreamMem (arXiv 2508.15717), input filter"
    licence = "none published"
    granularity = "frame"
    needs = frozenset({Need.FEATURES})

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """One frame for each run."""
        return merge_similar(arrival, self.similarity)

    def score(self, view: LayerView) -> Scores:
        """Recency, where a budget is set."""
        return recency(view)
