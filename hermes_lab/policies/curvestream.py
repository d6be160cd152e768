"""CurveStream: a queue of frames, gated by how much the feature trajectory moves and bends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.policies.base import (
    UNBOUNDED,
    Admission,
    Arrival,
    LayerView,
    Need,
    Policy,
    ReadPlan,
    Scores,
    setting,
)
from hermes_lab.policies.parts.blocks import newest_frames
from hermes_lab.policies.parts.frames import frames_of, visual_features, whole_frames
from hermes_lab.policies.parts.scoring import recency

CLEAR, BLURRED, DROPPED = 2, 1, 0


@dataclass(frozen=True, kw_only=True)
class CurveStream(Policy):
    """Admit frames where the curve of frame features turns, some of them coarsely, and hold the last few admitted.

    With unit features F_t: motion M_t = 1 - cos(F_t, F_t-1), curvature C_t = 1 - cos(F_t-1 - F_t-2, F_t - F_t-1), score
    M_t + λ C_t from the fourth frame on. Against a running mean μ and deviation σ: from μ + k₂ σ up a frame is admitted
    whole, from μ + k₁ σ up coarsely, else dropped. Source: CurveStream (arXiv 2603.19571), appendix F.

    Deviations: features are means of the model's own vision tower, not DINOv2; a coarse frame averages cells of the token
    grid, where the original encodes it again at 224 x 224 pixels; the KV of admitted frames is reused, where the original
    prefills the queue at the question. The newest frame is always read whole at a question, as in the paper.
    """

    frames: int = setting(20, "N_max: frames in the queue (paper).", minimum=1)
    curvature_weight: float = setting(0.2, "λ (paper).", minimum=0.0)
    coarse_above: float = setting(0.0, "k₁: deviations above the mean for a coarse frame (paper).")
    whole_above: float = setting(1.0, "k₂: deviations above the mean for a whole frame (paper).")
    decay: float = setting(
        0.9, "γ of the running mean and variance (undisclosed).", minimum=0.0, maximum=0.999
    )
    blur_cells: int = setting(
        2,
        "Side of the square of cells that a coarse frame averages (ours: the paper lowers the resolution).",
        minimum=1,
    )

    title = "frames where the feature curve turns, oldest out first"
    source = "CurveStream (arXiv 2603.19571)"
    licence = "none published"
    needs = frozenset({Need.FEATURES})
    granularity = "frame"
    default_positions = "eager"

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """Whole, coarse or not at all, frame by frame; `memory` holds the last features and the running moments."""
        frames, cells = frames_of(arrival)
        means = F.normalize(visual_features(arrival)[cells].mean(1), dim=-1)
        embeds = arrival.embeds.clone()
        keep = torch.zeros(arrival.frame.shape, dtype=torch.bool, device=embeds.device)
        term = torch.full(arrival.frame.shape, torch.nan, device=embeds.device)
        merged_into: dict[int, int] = {}
        for number, frame in enumerate(frames.tolist()):
            state, score = self.judge(means[number], memory)
            term[arrival.frame == frame] = score
            if state != DROPPED:
                keep[whole_frames(arrival, frames[number : number + 1])] = True
            if state == BLURRED:
                places = arrival.visual[cells[number]]
                merged_into |= _blur(embeds, keep, places, arrival, self.blur_cells)
        kept = keep.nonzero()[:, 0]
        return Admission(kept, embeds[kept], {"curve": term}, merged_into)

    def judge(
        self, feature: Float[Tensor, " feature"], memory: dict[str, Any]
    ) -> tuple[int, float]:
        """State and score of the next frame; the first three have no score and enter whole."""
        past: list[Tensor] = memory.setdefault("past", [])
        memory["seen"] = int(memory.get("seen", 0)) + 1
        score = float("nan")
        state = CLEAR
        if memory["seen"] > 3:
            before, last = past
            bend = F.cosine_similarity(last - before, feature - last, dim=0)
            score = float(1 - last @ feature + self.curvature_weight * (1 - bend))
            mean = float(memory.get("mean", score))
            mean = self.decay * mean + (1 - self.decay) * score
            spread = float(memory.get("variance", 0.0))
            spread = self.decay * spread + (1 - self.decay) * (score - mean) ** 2
            memory["mean"], memory["variance"] = mean, spread
            above = score - mean
            whole, coarse = self.whole_above * spread**0.5, self.coarse_above * spread**0.5
            state = CLEAR if above >= whole else BLURRED if above >= coarse else DROPPED
        memory["past"] = [*past[-1:], feature]
        return state, score

    def budgets(self, layers: int) -> list[int] | None:
        """The budget, if any; the limit itself is in frames."""
        return [self.budget_tokens or UNBOUNDED] * layers

    def due(self, tokens: Sequence[int], budgets: Sequence[int]) -> bool:
        """After every chunk."""
        return True

    def score(self, view: LayerView) -> Scores:
        """Recency: the queue is first in, first out."""
        return recency(view)

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """The last admitted frames, whole or coarse alike."""
        return newest_frames(view.frame[0], self.frames, count).expand(view.ids.shape[0], -1)

    def read_plan(self) -> ReadPlan:
        """The newest frame, whole, whatever the gate said of it."""
        return ReadPlan(recent_frames=1, replaces=True)


def _blur(
    embeds: Float[Tensor, "token hidden"],
    keep: Tensor,
    places: Int[Tensor, " cell"],
    arrival: Arrival,
    side: int,
) -> dict[int, int]:
    """Average squares of cells into their first cell; changes `embeds` and `keep`."""
    row, col = arrival.row[places] // side, arrival.col[places] // side
    square = row * (int(col.max()) + 1) + col
    merged_into: dict[int, int] = {}
    for number in square.unique().tolist():
        members = places[square == number]
        embeds[members[0]] = arrival.embeds[members].float().mean(0).to(embeds.dtype)
        keep[members[1:]] = False
        merged_into |= dict.fromkeys(members[1:].tolist(), int(members[0]))
    return merged_into
