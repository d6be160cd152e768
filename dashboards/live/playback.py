"""Playing a recording: where the needle stands, as a pure function of the clock."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hermes_lab.recording import Recording


@dataclass(frozen=True)
class Player:
    """A needle on a recording's stream time.

    Attributes:
        at_s: stream time where it stood at wall time `since`.
        end_s: stream time of the last step.
        speed: stream seconds per second.
    """

    at_s: float
    end_s: float
    speed: float = 8.0
    playing: bool = False
    since: float = 0.0

    def position(self, now: float) -> float:
        """Stream time of the needle."""
        moved = (now - self.since) * self.speed if self.playing else 0.0
        return min(self.at_s + moved, self.end_s)

    def ended(self, now: float) -> bool:
        return self.position(now) >= self.end_s

    def play(self, now: float) -> Player:
        """Go on; from the start where the end was reached."""
        at = 0.0 if self.ended(now) else self.position(now)
        return replace(self, at_s=at, playing=True, since=now)

    def pause(self, now: float) -> Player:
        return replace(self, at_s=self.position(now), playing=False)

    def seek(self, at_s: float, now: float) -> Player:
        return replace(self, at_s=min(max(at_s, 0.0), self.end_s), since=now)

    def with_speed(self, speed: float, now: float) -> Player:
        return replace(self, at_s=self.position(now), since=now, speed=speed)


def index_at(recording: Recording, at_s: float) -> int:
    """Index of the newest step whose last frame is not after a stream time; at least 0."""
    return max(0, int(np.searchsorted(recording.timeline.time_s, at_s + 1e-6, side="right")) - 1)


def next_step_s(recording: Recording, at_s: float) -> float:
    """Stream time of the step after the one shown."""
    times = recording.timeline.time_s
    return float(times[min(index_at(recording, at_s) + 1, len(times) - 1)])
