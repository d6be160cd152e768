"""Where, when and with which dice a question is put."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hermes_lab.worlds.catalogue import KINDS
from hermes_lab.worlds.render import hidden_share
from hermes_lab.worlds.schedule import Schedule, Thing

T = TypeVar("T")
RECENT_FRAMES = 8
"""Evidence of a `recent` question was last seen fewer frames ago than this."""
LONG_MIN_AGE_FRAMES = 16
"""Evidence of a `long` question was last seen at least this many frames ago."""
NONE = "none"
ABSENT_P = 0.15
"""Share of questions about a colour or kind that ask for one that is not there."""
HIDDEN = 0.35
"""An object hidden by more than this share is not asked about."""


@dataclass(frozen=True)
class Ask:
    """Where and how a question is put: the world, the time, the dice, and how old `long` must be."""

    schedule: Schedule
    t: int
    rng: np.random.Generator
    min_age: int

    def pick(self, options: list[T]) -> T:
        """One of the options, at random."""
        return options[int(self.rng.integers(len(options)))]

    def wording(self, *options: str) -> str:
        """The first wording half of the time, any of the others otherwise."""
        if len(options) == 1 or self.rng.random() < 0.5:
            return options[0]
        return options[1 + int(self.rng.integers(len(options) - 1))]

    @property
    def seen(self) -> list[Thing]:
        """Objects that have appeared so far, oldest first."""
        return [o for o in self.schedule.things if o.start <= self.t]

    def absent(self, things: list[Thing]) -> str:
        """A kind that none of these objects is."""
        there = {o.kind for o in things}
        return KINDS[self.pick([k for k in range(len(KINDS)) if k not in there])]

    def span(self, thing: Thing) -> tuple[int, ...]:
        """Frames so far that show an object."""
        return tuple(range(thing.start, thing.last_seen(self.t) + 1))

    def age(self, thing: Thing) -> int:
        """Frames since an object was last visible."""
        return self.t - thing.last_seen(self.t)

    def single(self) -> list[Thing]:
        """Objects that left long enough ago and whose kind has been seen exactly once."""
        seen = self.seen
        kinds = [o.kind for o in seen]
        return [o for o in seen if self.age(o) >= self.min_age and kinds.count(o.kind) == 1]

    def plain(self) -> list[Thing]:
        """Visible objects that nothing hides."""
        present = self.schedule.visible(self.t)
        return [o for o in present if hidden_share(self.schedule, o, self.t) < HIDDEN]


Found = tuple[str, str, tuple[int, ...], int] | None
"""Text, answer, evidence frames, evidence age; None where the type cannot be asked at this time."""
