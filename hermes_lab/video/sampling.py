"""Which frames a sampling rate takes: by presentation time, never by counting frames."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

EARLY = 0.49
"""A frame counts as shown this share of a frame early. It absorbs rounded timestamps, so that a clip
sampled at its own rate gives back exactly its frames, and stays short of half, so that a tie goes to
the frame already on screen."""

_TICK_S = 1e-6
_LONGEST_PAUSE_S = 3600.0
_LONGEST_PAUSE_PAST_END_S = 60.0
"""Longer jumps are a broken clock and not a pause. The tighter bound holds past the duration that the
container declares; not every muxer counts a last long pause into it."""


class Timed(NamedTuple, Generic[T]):
    """A decoded item with its presentation time and, where known, how long it is shown."""

    time_s: float
    lasts_s: float | None
    item: T


def shown_at_rate(
    timed: Iterable[Timed[T]], *, fps: float, start_s: float, interval_s: float
) -> Generator[Timed[T]]:
    """Yield, for k = 0, 1, 2, ..., the item on screen at `start_s + k / fps`.

    Items come with strictly increasing times, the first of them at `start_s` or before. An item goes
    on screen 49 % of a frame before its time, a frame being the least of the gap to its predecessor,
    the stream's `interval_s` (infinite if unknown) and 1 / fps; the last one leaves the screen in the
    same way after `lasts_s`. A sampled item keeps its own time when it is taken for the first time;
    one that is still on screen at a later instant (a rate above the clip's own, a pause in a clip of
    variable rate) is yielded again with that instant as its time, so that times strictly increase.
    """
    on_screen: Timed[T] | None = None
    k = 0
    for next_s, upcoming in _with_end(timed, interval_s, 1 / fps):
        if on_screen is not None:
            frame_s = min(next_s - on_screen.time_s, interval_s, 1 / fps)
            taken = False
            while (instant_s := start_s + k / fps) < next_s - EARLY * frame_s:
                fresh = not taken and on_screen.time_s >= start_s
                yield on_screen if fresh else on_screen._replace(time_s=instant_s)
                taken = True
                k += 1
        on_screen = upcoming


def from_start(timed: Iterable[Timed[T]], start_s: float) -> Generator[Timed[T]]:
    """Yield every item whose time is `start_s` or later."""
    for entry in timed:
        if entry.time_s >= start_s - _TICK_S:
            yield entry


def _with_end(
    timed: Iterable[Timed[T]], interval_s: float, default_s: float
) -> Generator[tuple[float, Timed[T] | None]]:
    """Pair each item with its time and end with the moment at which the last one leaves the screen."""
    last: Timed[T] | None = None
    gap_s = default_s
    for entry in timed:
        gap_s = entry.time_s - last.time_s if last is not None else gap_s
        last = entry
        yield entry.time_s, entry
    if last is not None:
        usual_s = interval_s if math.isfinite(interval_s) else gap_s
        yield last.time_s + (last.lasts_s or usual_s), None


class PresentationClock:
    """Turns a decoder's timestamps into strictly increasing seconds from the first frame.

    A missing or repeated timestamp is filled in with the frame interval. A timestamp that runs
    backwards, or ahead by more than an hour (a minute, past the `duration_s` that the container
    declares), is a broken clock: the stream goes on from there one interval after the last frame.
    """

    def __init__(
        self, *, origin_s: float | None, interval_s: float, duration_s: float | None
    ) -> None:
        self._origin_s = origin_s
        self._interval_s = interval_s
        self._duration_s = duration_s
        self._last_raw_s: float | None = None
        self.last_s: float | None = None

    def stamp(self, raw_s: float | None, *, lasts_s: float | None = None) -> float:
        """Give the next frame its time; `raw_s` is what the decoder said, in its own clock."""
        previous_s = self.last_s
        if previous_s is None:
            self._origin_s = raw_s if self._origin_s is None else self._origin_s
            time_s = 0.0 if raw_s is None or self._origin_s is None else raw_s - self._origin_s
        else:
            time_s = self._after(previous_s, raw_s, lasts_s or self._interval_s)
        if raw_s is not None:
            self._last_raw_s = raw_s
        self.last_s = time_s
        return time_s

    def place(self, raw_s: float | None) -> float:
        """Where on this clock a later timestamp lies, for which there is no frame to stamp."""
        if self.last_s is None:
            return 0.0
        if raw_s is None or self._last_raw_s is None:
            return self.last_s + self._interval_s
        return self.last_s + raw_s - self._last_raw_s

    def _after(self, previous_s: float, raw_s: float | None, step_s: float) -> float:
        if raw_s is None or raw_s == self._last_raw_s:
            return previous_s + step_s
        if self._origin_s is None:
            self._origin_s = raw_s - previous_s - step_s
        time_s = raw_s - self._origin_s
        backwards = self._last_raw_s is not None and raw_s < self._last_raw_s
        if backwards or time_s > self._latest_s(previous_s):
            time_s = previous_s + step_s
            self._origin_s = raw_s - time_s
        return max(time_s, previous_s + _TICK_S)

    def _latest_s(self, previous_s: float) -> float:
        if self._duration_s is None:
            return previous_s + _LONGEST_PAUSE_S
        return max(self._duration_s, previous_s + _LONGEST_PAUSE_PAST_END_S)


class LiveGrid:
    """Decides frame by frame what a live stream sampled at `fps` takes, without looking ahead.

    For each instant `start_s + k / fps` the first frame at or after it is taken (with the tolerance
    of `EARLY`); instants that pass without a frame are skipped rather than filled.
    """

    def __init__(self, fps: float | None, start_s: float) -> None:
        self._fps = fps
        self._start_s = start_s
        self._next_s = start_s
        self._last_s: float | None = None

    def takes(self, time_s: float) -> bool:
        """Whether the frame at `time_s` (increasing from call to call) is part of the sample."""
        gap_s = 0.0 if self._last_s is None else time_s - self._last_s
        self._last_s = time_s
        if self._fps is None:
            return time_s >= self._start_s - _TICK_S
        reached_s = time_s + EARLY * min(gap_s, 1 / self._fps)
        if reached_s < self._next_s:
            return False
        k = math.floor((reached_s - self._start_s) * self._fps + _TICK_S) + 1
        self._next_s = self._start_s + k / self._fps
        return True
