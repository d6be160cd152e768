"""Frames that came after a moment's last decision, and when the next one is due: of a running stream or a replay."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dashboards.parts.protocol import Arriving
from hermes_lab.recording import Recording

if TYPE_CHECKING:
    from dashboards.live.moment import Moment
    from dashboards.live.stream_view import StreamView


TICK_S = 0.45
"""Seconds between two messages to the page: each costs the browser some 60 ms, and the page carries the clock on in
between."""


@dataclass(frozen=True)
class ArrivingFrames:
    """Frames that no layer has decided on yet.

    Attributes:
        frames, times_s: their numbers and stream times, in order.
        slots: how many frames make a chunk.
        due_in_s: wall seconds until the next frame is due; None where the stream stands still or is not paced.
        every_s: wall seconds from one frame to the next.
    """

    frames: tuple[int, ...] = ()
    times_s: tuple[float, ...] = ()
    slots: int = 1
    due_in_s: float | None = None
    every_s: float = 1.0

    def head(self, moment: Moment | None) -> Arriving:
        """What the strip's canvas must know: where they begin and how wide a frame is, in the strip's columns."""
        end = width = 0.0
        if moment is not None and len(moment.ids):
            strip, seen = moment.strip, moment.arrived_tokens
            scale = strip.columns / max(int(strip.first[-1]), 1)
            end, width = seen * scale, math.prod(moment.grid) * scale
        due = self.due_in_s
        return {
            "slots": self.slots,
            "frames": self.frames,
            "times_s": [round(t, 1) for t in self.times_s],
            "end": end,
            "width": width,
            "due": None if due is None else {"in_s": round(due, 3), "every_s": self.every_s},
        }


def live_arriving(view: StreamView, chunk_frames: int) -> ArrivingFrames:
    """Of a running stream."""
    due = None if view.next_due is None else max(0.0, view.next_due - time.monotonic())
    return ArrivingFrames(
        frames=tuple(f for f, _ in view.on_the_way), times_s=tuple(t for _, t in view.on_the_way),
        slots=chunk_frames, due_in_s=due, every_s=view.every_s,
    )  # fmt: skip


def replayed_arriving(
    recording: Recording, moment: Moment, now_s: float, speed: float
) -> ArrivingFrames:
    """Of a recording whose needle stands at `now_s` and moves at `speed` stream seconds per second; 0: it stands still."""
    frame, time_s = moment.column("frame"), moment.column("time_s")
    first = np.flatnonzero(np.diff(frame, prepend=-1) > 0)  # summary tokens have no frame
    frame, time_s = frame[first], time_s[first].astype(float)
    come = int(np.searchsorted(time_s, now_s + 1e-6, side="right"))
    coming = slice(min(moment.frame + 1, come), come)
    due, every = None, 1.0
    if speed > 0 and 0 < come < len(time_s):
        due = max(0.0, (time_s[come] - now_s) / speed)
        every = max(time_s[come] - time_s[come - 1], 1e-3) / speed
    return ArrivingFrames(
        frames=tuple(frame[coming].tolist()), times_s=tuple(time_s[coming].tolist()),
        slots=recording.manifest.chunk_frames, due_in_s=due, every_s=every,
    )  # fmt: skip
