"""FluxMem: drop what does not change from frame to frame, merge what is alike within a frame, before the decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from hermes_lab.policies.base import (
    Admission,
    Arrival,
    LayerView,
    Policy,
    ReadPlan,
    Scores,
    setting,
)
from hermes_lab.policies.parts.frames import frames_of
from hermes_lab.policies.parts.otsu import otsu, otsu_or_median
from hermes_lab.policies.parts.scoring import recency


@dataclass(frozen=True, kw_only=True)
class FluxMem(Policy):
    """Two adaptive reductions of each frame's visual embeddings, with thresholds from Otsu's method.

    Temporal (TAS): s⁻ and s⁺ are 1 - the largest cosine to the 3 x 3 neighbourhood in the previous and the next frame; a
    token stays if either reaches its threshold. Spatial (SDC): neighbours on the grid closer than a threshold form
    components; each becomes its mean, at the member nearest to it. Source: FluxMem (arXiv 2603.02096).

    Deviations: reductions happen on arrival and their KV is reused, where the original reduces frames as they age and
    prefills all of them at the question. So there is no middle tier (the paper ablates that: "short + long", 77.0 against
    76.4 on StreamingBench); the untouched short tier is the last frames read again. A chunk's last frame has no next
    frame yet and is judged by the previous one.
    """

    short_frames: int = setting(
        8, "Last frames read whole at a question (released code).", minimum=0
    )
    drop_similarity: float | None = setting(
        0.8, "Drop a token whose likeness in the next frame exceeds this (released code only); None: never.",
        minimum=-1.0, maximum=1.0,
    )  # fmt: skip
    components: bool = setting(
        True, "Merge within frames (SDC of the paper); False: the temporal step alone."
    )

    title = "novel against neighbouring frames, merged within a frame"
    source = "FluxMem (arXiv 2603.02096)"
    licence = "Apache-2.0"

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """Novel tokens of each frame, components merged; markers stay."""
        _, cells = frames_of(arrival)
        where = arrival.visual[cells]  # [frame, cell] -> place in the chunk
        embeds = arrival.embeds.clone()
        units = F.normalize(arrival.embeds[where].float(), dim=-1)
        rows, cols = arrival.row[where], arrival.col[where]
        novelty = torch.full(arrival.frame.shape, torch.nan, device=embeds.device)
        keep = torch.ones(arrival.frame.shape, dtype=torch.bool, device=embeds.device)
        merged_into: dict[int, int] = {}
        previous: _Frame | None = memory.get("frame")
        for number in range(len(where)):
            frame = _Frame(units[number], rows[number], cols[number])
            following = _Frame(units[number + 1], rows[number + 1], cols[number + 1]) if number + 1 < len(where) else None  # fmt: skip
            stays, scores = self._novel(frame, previous, following)
            keep[where[number]], novelty[where[number]] = stays, scores
            if self.components:
                merged_into |= _merge_components(
                    embeds, where[number][stays], frame.at(stays), keep
                )
            previous = frame
        memory["frame"] = previous
        places = keep.nonzero()[:, 0]
        return Admission(places, embeds[places], {"novelty": novelty}, merged_into)

    def score(self, view: LayerView) -> Scores:
        """Recency, where a budget is set (the method itself has none)."""
        return recency(view)

    def read_plan(self) -> ReadPlan:
        """The short tier: the last frames, whole."""
        return ReadPlan(recent_frames=self.short_frames, replaces=self.short_frames > 0)

    def _novel(
        self, frame: _Frame, previous: _Frame | None, following: _Frame | None
    ) -> tuple[Bool[Tensor, " cell"], Float[Tensor, " cell"]]:
        """Which tokens stay, and the larger of s⁻ and s⁺ (the whole frame if it has no neighbour)."""
        stays = torch.full_like(
            frame.rows, previous is None and following is None, dtype=torch.bool
        )
        novelty = torch.zeros(len(stays), device=stays.device)
        for neighbour in (previous, following):
            if neighbour is not None:
                distance = 1 - likeness(frame, neighbour)
                stays |= distance >= otsu_or_median(distance)
                novelty = torch.maximum(novelty, distance)
        if following is not None and self.drop_similarity is not None:
            stays &= likeness(frame, following) <= self.drop_similarity
        return stays, novelty


@dataclass(frozen=True)
class _Frame:
    """Normalised embeddings of a frame's tokens and their cells."""

    units: Float[Tensor, "cell hidden"]
    rows: Int[Tensor, " cell"]
    cols: Int[Tensor, " cell"]

    def at(self, mask: Bool[Tensor, " cell"]) -> _Frame:
        """Some of its tokens."""
        return _Frame(self.units[mask], self.rows[mask], self.cols[mask])


def likeness(frame: _Frame, other: _Frame) -> Float[Tensor, " cell"]:
    """Largest cosine of each token to the 3 x 3 neighbourhood of its cell in another frame."""
    return (frame.units @ other.units.T).masked_fill(~_near(frame, other), -torch.inf).amax(-1)


def _near(frame: _Frame, other: _Frame) -> Bool[Tensor, "cell other"]:
    rows = (frame.rows[:, None] - other.rows[None]).abs() <= 1
    return rows & ((frame.cols[:, None] - other.cols[None]).abs() <= 1)


def _merge_components(
    embeds: Float[Tensor, "token hidden"],
    places: Int[Tensor, " kept"],
    frame: _Frame,
    keep: Bool[Tensor, " token"],
) -> dict[int, int]:
    """Replace each component's anchor by its mean and drop the others; changes `embeds` and `keep`."""
    label = components(frame)
    merged_into: dict[int, int] = {}
    for number in label.unique().tolist():
        members = places[label == number]
        if len(members) < 2:
            continue
        states = embeds[members].float()
        mean = states.mean(0)
        anchor = int((states - mean).square().sum(-1).argmin())
        embeds[members[anchor]] = mean.to(embeds.dtype)
        others = members[torch.arange(len(members), device=members.device) != anchor]
        keep[others] = False
        merged_into |= dict.fromkeys(others.tolist(), int(members[anchor]))
    return merged_into


def components(frame: _Frame) -> Int[Tensor, " cell"]:
    """Component of each token: neighbours on the grid (eight each) whose distance is within Otsu's threshold.

    Components are numbered in the order of their first tokens.
    """
    distance = (1 - frame.units @ frame.units.T).clamp(0, 2)
    pairs = _near(frame, frame).triu(1)
    threshold = otsu(distance[pairs])
    if threshold is None:
        return torch.arange(len(pairs), device=pairs.device)
    linked = (pairs & (distance <= threshold)).cpu().numpy()
    _, label = connected_components(csr_array(linked), directed=False)
    return torch.from_numpy(label).long().to(pairs.device)
