"""Which of a frame's two timestamps says when it is shown.

A decoder hands out a presentation time (pts) and a decoding time (dts) with each frame. Some containers
store decoding times only (AVI, ASF), and files that were copied out of them carry decoding times under
the name of presentation times: where frames are reordered, such a pts runs back and forth.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from av.video.frame import VideoFrame

DECODE_ORDER_FORMATS = frozenset({"avi", "asf"})
"""Containers that store no presentation times: whatever pts their frames have was guessed."""

FRAMES_TO_JUDGE = 16
"""So many frames, in the order shown, hold at least one reordered group of nearly every encoder."""


_REORDERED_S = 1.0
"""A stamp that lies no further back belongs to frames out of order; more, and the clock starts over."""


@dataclass(frozen=True)
class Trust:
    """What is known about the stamps of one video.

    `by_dts` says that decoding times are the ones to believe, `jumbled` that either kind runs back and
    forth. `shift_s` is what to add to decoding times, in seconds, to be on the clock of the first frame
    (None: not known yet).
    """

    by_dts: bool = False
    jumbled: bool = False
    shift_s: float | None = None


class Stamps:
    """Reads the time of each frame in turn, by the stamp that runs backwards less often.

    This is FFmpeg's own rule (`guess_correct_pts`), with two differences: decoding times are moved
    onto the clock of the first frame, so that changing over to them does not jump; and where both
    kinds run back and forth, a stamp that lies shortly behind an earlier one is no stamp at all.
    """

    def __init__(self, trust: Trust | None = None) -> None:
        self._given = trust or Trust()
        self._shift_s = self._given.shift_s
        self._pts = _Watched()
        self._dts = _Watched()
        self._furthest_s: float | None = None

    @property
    def trust(self) -> Trust:
        """What the frames so far told; give it to the `Stamps` of another pass over the same video."""
        return Trust(self.by_dts, self._jumbled, self._shift_s)

    @property
    def by_dts(self) -> bool:
        """Whether decoding times are believed from here on."""
        return self._given.by_dts or self._pts.faults > self._dts.faults

    @property
    def _jumbled(self) -> bool:
        return self._given.jumbled or min(self._pts.reordered, self._dts.reordered) > 1

    def raw_s(self, frame: VideoFrame) -> float | None:
        """When the next frame is shown, on the clock of the stream; None where nothing tells."""
        pts_s, dts_s = seconds(frame.pts, frame.time_base), seconds(frame.dts, frame.time_base)
        self._pts.see(pts_s)
        self._dts.see(dts_s)
        if self._shift_s is None and dts_s is not None:
            self._shift_s = 0.0 if pts_s is None else pts_s - dts_s
        told_s = pts_s
        if self.by_dts or pts_s is None:
            told_s = None if dts_s is None else dts_s + (self._shift_s or 0.0)
        return self._in_order(told_s) if self._jumbled else told_s

    def _in_order(self, told_s: float | None) -> float | None:
        furthest_s = self._furthest_s
        if told_s is None:
            return None
        if furthest_s is not None and furthest_s - _REORDERED_S < told_s <= furthest_s:
            return None
        self._furthest_s = told_s
        return told_s


class _Watched:
    """Counts how often one kind of stamp steps back or stands still, and how often only a little."""

    def __init__(self) -> None:
        self.faults = 0
        self.reordered = 0
        self._last_s: float | None = None

    def see(self, now_s: float | None) -> None:
        if now_s is None:
            return
        if self._last_s is not None and now_s <= self._last_s:
            self.faults += 1
            self.reordered += now_s > self._last_s - _REORDERED_S
        self._last_s = now_s


def seconds(ticks: int | None, time_base: Fraction | None) -> float | None:
    """Timestamps in seconds; None stays None."""
    return None if ticks is None or time_base is None else float(ticks * time_base)
