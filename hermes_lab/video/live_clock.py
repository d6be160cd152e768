"""Time of a live stream: its own stamps as long as they agree with the clock on the wall.

Formats without stamps get some from FFmpeg at a rate that nobody measured, cameras send stamps that stand
still or fall to zero, and encoders stamp 25 frames per second while they send five. What a live stream shows
happens now, so the arrival of its frames says when, as soon as its stamps cannot be true.
"""

from __future__ import annotations

CLOCKLESS_FORMATS = frozenset(
    {"mpjpeg", "mjpeg", "mjpeg_2000", "image2pipe", "rawvideo", "yuv4mpegpipe", "mpegvideo", "m4v", "h261",
     "h263", "h264", "hevc", "vvc", "evc", "vc1", "av1", "obu", "dirac", "cavsvideo", "avs2", "avs3"}
)  # fmt: skip
"""Formats that carry pictures and no times; FFmpeg counts 25 of them a second, whenever they come."""

_TICK_S = 1e-6
_LEAP_S = 1.0
"""A stamp this much further ahead than its frame came later is a clock that was set."""
_LEAP_INTERVALS = 4.0
"""... unless the stream's frames usually lie that far apart."""
_SLOWEST_S = 10.0
"""The longest first step that is believed, where nothing is known yet about how far apart frames lie."""
_LONGEST_PAUSE_S = 60.0
"""... and the longest step at all in a recording that is sent faster than it plays."""
_SLACK_S = 0.5
"""Stamps that are off by less are not set anew."""
_LAG_S = 1.0
_LAG_LASTS_S = 2.0
"""Stamps that have been further behind the wall clock for so long are not going to catch up."""
_WINDOW_S = 1.0
_WINDOW_FRAMES = 8
_DRIFT = 0.02
"""Less is the drift of two good clocks."""
_FASTEST = 4.0
"""A stream that has run ahead of the wall clock by this factor is a recording that is being sent, ..."""
_MOST_PER_S = 65.0
"""... as is one of more frames per second than cameras have."""


def is_clockless(format_name: str) -> bool:
    """Whether a container of this name carries no times."""
    names = set(format_name.split(","))
    return bool(names & CLOCKLESS_FORMATS) or any(name.endswith("_pipe") for name in names)


class LiveClock:
    """Turns stamps and arrivals of a live stream into strictly increasing seconds from its first frame.

    A stamp that is missing, stands still, runs backwards, or leaps ahead of its frame's arrival is
    replaced by the arrival, and the stamps after it count from there. Stamps that keep falling behind
    the wall clock, or keep gaining on it, are given up for good. Bursts are fine (what a server had
    waiting arrives at once), and so is a recording that is sent faster than it plays.

    Args:
        believed: whether the stream has a clock at all.
        opened_s: when it was opened, by the clock of the arrivals. What piled up until the first frame
            was read ends in a gap, which is nobody's fault and not kept.
    """

    def __init__(self, *, believed: bool = True, opened_s: float | None = None) -> None:
        self._believed = believed
        self._opened_s = opened_s
        self._has_clock = believed
        self._first_arrival_s = 0.0
        self._arrived_s = 0.0
        self._last_raw_s: float | None = None
        self._raw_arrived_s = 0.0
        self._anchor_s: float | None = None
        self._usual_s: float | None = None
        self._offset_s = 0.0
        self._pace = _Pace()
        self.last_s: float | None = None
        self.faults = 0
        self.first_fault_s = 0.0
        self.given_up_s: float | None = None

    def stamp(self, raw_s: float | None, arrived_s: float, waited_s: float = 0.0) -> float:
        """Give the next frame its time.

        Args:
            raw_s: when it is shown by the stream's own clock; None: unknown.
            arrived_s: when it arrived, by a clock that runs evenly.
            waited_s: how long the reader has waited for data since it began; a reader that is too slow to
                wait learns nothing about the stream's speed.
        """
        if self.last_s is None:
            self._first_arrival_s = arrived_s
            time_s = 0.0
            self._anchor_s = None if raw_s is None else -raw_s
        else:
            wall_s = arrived_s - self._first_arrival_s
            time_s = max(self._next(self.last_s, raw_s, arrived_s), self.last_s + _TICK_S)
            if self._believed and self._pace.is_wrong(time_s, wall_s, waited_s):
                self._give_up(time_s, wall_s)
                time_s = max(wall_s + self._offset_s, self.last_s + _TICK_S)
        if raw_s is not None:
            self._last_raw_s, self._raw_arrived_s = raw_s, arrived_s
        self._arrived_s = arrived_s
        self.last_s = time_s
        return time_s

    def note(self, name: str) -> str | None:
        """One sentence on why arrivals counted instead of stamps; None where they did not."""
        if not self._has_clock:
            return f"{name} carries no times of its own: its frames are timed by their arrival."
        if self.given_up_s is not None:
            return (
                f"The clock of {name} does not keep time with the wall clock: from "
                f"{self.given_up_s:.2f} s on its frames are timed by their arrival."
            )
        if self.faults:
            return (
                f"The times of {name} are missing or cannot be true at {self.faults} of its frames, first at "
                f"{self.first_fault_s:.2f} s: these are timed by their arrival."
            )
        return None

    def _next(self, last_s: float, raw_s: float | None, arrived_s: float) -> float:
        wall_s = arrived_s - self._first_arrival_s
        if not self._believed:
            return wall_s + self._offset_s
        by_arrival_s = last_s + max(0.0, arrived_s - self._arrived_s)
        if raw_s is None:
            return self._fault(by_arrival_s)
        if self._anchor_s is None or self._last_raw_s is None:
            self._anchor_s = by_arrival_s - raw_s
            return by_arrival_s
        step_s = raw_s - self._last_raw_s
        time_s = raw_s + self._anchor_s
        too_long = self._leaps(step_s, arrived_s - self._raw_arrived_s, last_s > _FASTEST * wall_s)
        if step_s <= 0 or too_long or time_s < last_s - _SLACK_S:
            if abs(time_s - by_arrival_s) > _SLACK_S:
                self._anchor_s = by_arrival_s - raw_s
            if 0 < step_s <= self._unread_s(arrived_s):
                return by_arrival_s
            return self._fault(by_arrival_s)
        self._usual_s = step_s if self._usual_s is None else 0.9 * self._usual_s + 0.1 * step_s
        return time_s

    def _leaps(self, step_s: float, gap_s: float, fast: bool) -> bool:
        """Whether stamps `step_s` apart cannot belong to frames that arrived `gap_s` apart; `fast`
        says that the stream comes much faster than it plays."""
        if step_s <= gap_s + _LEAP_S:
            return False
        if self._usual_s is None:
            return step_s > _SLOWEST_S
        if fast and not self.faults:
            return step_s > _LONGEST_PAUSE_S
        return step_s > _LEAP_INTERVALS * self._usual_s

    def _unread_s(self, arrived_s: float) -> float:
        """How long the stream may have run unread before this frame, which is one of the first."""
        if self._opened_s is None or arrived_s - self._first_arrival_s > _LEAP_S:
            return 0.0
        return arrived_s - self._opened_s + _LEAP_S

    def _fault(self, time_s: float) -> float:
        if not self.faults:
            self.first_fault_s = time_s
        self.faults += 1
        return time_s

    def _give_up(self, time_s: float, wall_s: float) -> None:
        assert self.last_s is not None
        self._believed = False
        self._offset_s = max(0.0, self.last_s - wall_s)
        self.given_up_s = time_s


class _Pace:
    """Compares the speed of the stamps with that of the wall clock.

    Falling behind shows at once: what is live cannot come before it happened. Gaining could also be a
    burst, so it counts only while frames come one by one.
    """

    def __init__(self) -> None:
        self._behind_since: tuple[float, float] | None = None
        self._starting = True
        self._gaps_s: list[float] = []
        self._window: tuple[float, float] = (0.0, 0.0)
        self._last_wall_s = 0.0
        self._lead_s = 0.0
        self._paced_since_s: float | None = None

    def is_wrong(self, time_s: float, wall_s: float, waited_s: float) -> bool:
        """Whether the stamps are known to run at another speed than the wall clock by now."""
        return self._lags(time_s, wall_s, waited_s) or self._gains(time_s, wall_s, waited_s)

    def _lags(self, time_s: float, wall_s: float, waited_s: float) -> bool:
        if wall_s - time_s <= _LAG_S:
            self._behind_since = None
            return False
        self._behind_since = self._behind_since or (wall_s, waited_s)
        since_s, waited_then_s = self._behind_since
        lasted_s = wall_s - since_s
        return lasted_s >= _LAG_LASTS_S and waited_s - waited_then_s >= lasted_s / 2

    def _gains(self, time_s: float, wall_s: float, waited_s: float) -> bool:
        gap_s, self._last_wall_s = wall_s - self._last_wall_s, wall_s
        lead_s = time_s - wall_s
        # What was waiting when the stream was opened comes first, all at once.
        self._starting = self._starting and gap_s < 1 / _MOST_PER_S
        if self._starting:
            self._window, self._lead_s = (wall_s, waited_s), lead_s
            return False
        self._gaps_s.append(gap_s)
        began_s, waited_then_s = self._window
        lasted_s, frames = wall_s - began_s, len(self._gaps_s)
        if lasted_s < _WINDOW_S or frames < _WINDOW_FRAMES:
            return False
        even = sum(gap_s > 0.3 * lasted_s / frames for gap_s in self._gaps_s) > 0.7 * frames
        idle = waited_s - waited_then_s >= lasted_s / 2
        self._window, self._gaps_s = (wall_s, waited_s), []
        if not (even and idle and frames <= _MOST_PER_S * lasted_s):
            # Whoever catches up gains nothing: only a lead greater than ever counts.
            self._lead_s, self._paced_since_s = max(self._lead_s, lead_s), None
            return False
        if self._paced_since_s is None:
            self._paced_since_s = began_s
        paced_s = wall_s - self._paced_since_s
        gained_s = lead_s - self._lead_s
        return paced_s >= 2 * _WINDOW_S and gained_s > max(_SLACK_S, _DRIFT * paced_s)
