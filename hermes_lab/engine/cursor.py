"""Where the next segment of a layer goes: the anchor rules of `Segment`, as one pure step.

Text after a video starts behind every position that the video used, on all axes, as Qwen2-VL and
Qwen2.5-VL were trained (in their own code and in transformers 4). Since 5.3, transformers' `get_rope_index`
starts it `max(rows, columns)` behind the start of the video instead, which gives the text of a video with
more temporal positions than that the same t as some of its frames; the two agree for shorter videos.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Int
from torch import Tensor

from hermes_lab.segment import Segment


@dataclass(frozen=True)
class Cursor:
    """The position state of one layer.

    Attributes:
        next: the first position that no token has used on any axis.
        video: (t of the next group of frames, start of the h and w axes) of the video that is being
            streamed, or None before its first frame.
    """

    next: int = 0
    video: tuple[int, int] | None = None

    def place(self, segment: Segment) -> tuple[Int[Tensor, "axes tokens"], Cursor]:
        """Positions of a segment, and the cursor behind it. A question in between leaves `video` alone."""
        if segment.anchor == "next":
            positions = segment.rel + self.next
            return positions, replace(self, next=self._behind(positions))
        time, origin = self.video or (self.next, self.next)
        positions = segment.rel + origin
        positions[0] += time - origin
        return positions, Cursor(self._behind(positions), (time + segment.video_span, origin))

    def _behind(self, positions: Int[Tensor, "axes tokens"]) -> int:
        return max(self.next, int(positions.max()) + 1) if positions.numel() else self.next
