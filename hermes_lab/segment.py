"""Decoder inputs of a chunk or a turn, and its parts: what models make, the engine reads and gates cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """A run of consecutive decoder inputs: text, or the tokens of one or more frames (with their markers).

    Attributes:
        embeds: decoder input embeddings.
        role: `hermes_lab.tokens.Role` of each token.
        frame: index within the frames that were given to `Adapter.encode` (0-based), -1 for text.
            A token made of two frames (Qwen2.5-VL's temporal patches) carries the later one.
        row, col: cell of the frame's token grid, -1 for text.
        rel: rotary positions relative to the anchor, one row per rotary axis (1, or 3 for t, h, w).
        anchor: what `rel` is relative to. "next": the next free position of the layer on every axis.
            "video": the t axis continues the layer's video time and the h, w axes are relative to the place
            where the video began, as in one uninterrupted video span (Qwen2.5-VL).
            `hermes_lab.engine.cursor.Cursor` is the rule in code.
        video_span: with anchor "video", how far the segment moves the layer's video time; the next
            segment's first frames go there. It exceeds the largest `rel` of the t axis by the time between
            two groups of frames.
        deepstack: extra visual embeddings added to the residual stream after the first decoder layers
            (Qwen3-VL), each of the same shape as `embeds` and zero on text tokens.
        features: vision-tower features of the visual tokens before the projector, mapped to the token grid
            (mean over the patches that a token merges); used by policies that act before the decoder.
        saliency: attention that each visual token's patches receive in the last layer of the vision tower,
            where a policy asked for it and the tower can give it.
        time_s: presentation time of each given frame.
    """

    embeds: Float[Tensor, "tokens hidden"]
    role: npt.NDArray[np.int8]
    frame: npt.NDArray[np.int32]
    row: npt.NDArray[np.int16]
    col: npt.NDArray[np.int16]
    rel: Int[Tensor, "axes tokens"]
    anchor: Literal["next", "video"] = "next"
    video_span: int = 0
    deepstack: tuple[Float[Tensor, "tokens hidden"], ...] = ()
    features: Float[Tensor, "visual features"] | None = None
    saliency: Float[Tensor, " visual"] | None = None
    time_s: tuple[float, ...] = ()

    def __len__(self) -> int:
        return int(self.embeds.shape[0])


def take(segment: Segment, index: np.ndarray[Any, np.dtype[np.int64]]) -> Segment:
    """A segment of some of the tokens, at the positions they had in the whole."""
    chosen = torch.as_tensor(index, dtype=torch.long)
    on_device = chosen.to(segment.embeds.device)
    visual = np.flatnonzero(segment.row >= 0)
    features, saliency = segment.features, segment.saliency
    kept_visual = torch.as_tensor(np.flatnonzero(np.isin(visual, index)))
    return replace(
        segment,
        embeds=segment.embeds[on_device],
        role=segment.role[index],
        frame=segment.frame[index],
        row=segment.row[index],
        col=segment.col[index],
        rel=segment.rel[:, chosen],
        deepstack=tuple(extra[on_device] for extra in segment.deepstack),
        features=None if features is None else features[kept_visual.to(features.device)],
        saliency=None if saliency is None else saliency[kept_visual.to(saliency.device)],
    )


def frames_of(segment: Segment, first: int) -> Segment:
    """The tail of a segment from its frame `first` on (markers included), moved to the segment's start."""
    visual_or_marker = np.flatnonzero(segment.frame >= first)
    part = take(segment, np.arange(visual_or_marker[0], len(segment)))
    rel = part.rel.clone()
    if part.anchor == "video":
        shift = int(rel[0].min())
        rel[0] -= shift
        return replace(part, rel=rel, video_span=segment.video_span - shift)
    return replace(part, rel=rel - rel.min())


def join(segments: Sequence[Segment]) -> Segment:
    """Several prompts side by side for one block-masked pass; each restarts at its own first position."""
    return Segment(
        embeds=torch.cat([s.embeds for s in segments]),
        role=np.concatenate([s.role for s in segments]),
        frame=np.concatenate([s.frame for s in segments]),
        row=np.concatenate([s.row for s in segments]),
        col=np.concatenate([s.col for s in segments]),
        rel=torch.cat([s.rel for s in segments], 1),
    )
