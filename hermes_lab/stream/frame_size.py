"""What a frame of a stream takes in the cache, counted and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hermes_lab.segment import Segment


@dataclass(frozen=True)
class FrameSize:
    """What a frame takes in the cache.

    Attributes:
        tokens: of one frame with its markers; of a whole group where frames are encoded together.
        frames: frames in a group (2 for Qwen-VL).
    """

    tokens: int
    frames: int = 1

    @property
    def noun(self) -> str:
        """What is counted, for sentences."""
        return {1: "frame", 2: "pair of frames"}.get(self.frames, f"group of {self.frames} frames")

    def counted(self, groups: int) -> str:
        """So many frames (or groups), with what each takes: "16 pairs of frames of 720 tokens"."""
        first, _, rest = self.noun.partition(" ")
        plural = first if groups == 1 else f"{first}s"
        return f"{groups} {plural}{rest and ' '}{rest} of {tokens_text(self.tokens)}"


def frame_size(segment: Segment, frames_per_group: int) -> FrameSize | None:
    """What the largest frame of a chunk takes; None where the chunk has no token of a frame."""
    frame = segment.frame[segment.frame >= 0]
    return FrameSize(int(np.bincount(frame).max()), frames_per_group) if len(frame) else None


def tokens_text(count: int) -> str:
    """So many tokens, in words."""
    return "1 token" if count == 1 else f"{count} tokens"
