"""Questions about a stream with exact one-word answers, each with the frames that hold its evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hermes_lab.worlds import past, present
from hermes_lab.worlds.asking import LONG_MIN_AGE_FRAMES, RECENT_FRAMES, Ask, Found
from hermes_lab.worlds.schedule import Schedule

__all__ = [
    "LONG_MIN_AGE_FRAMES",
    "RECENT_FRAMES",
    "TYPES",
    "UNLEARNED",
    "Horizon",
    "Question",
    "horizon_of",
    "make",
]

Horizon = Literal["now", "recent", "long"]


@dataclass(frozen=True)
class Question:
    """One question asked after frame `time_frame` has been seen.

    Attributes:
        evidence_frames: frames up to `time_frame` that show what the answer rests on; empty where the
            answer rests on something never having been there.
        evidence_age_frames: frames since the oldest thing the answer needs was last visible
            (`time_frame` + 1 where the evidence is an absence).
    """

    time_frame: int
    type: str
    horizon: Horizon
    text: str
    answer: str
    evidence_frames: tuple[int, ...]
    evidence_age_frames: int

    @property
    def majority(self) -> str:
        """The commonest answer of this type, or the best constant strategy where that says more."""
        from hermes_lab.worlds.majority import baseline

        return baseline(self.type).answer


_MAKERS: dict[str, Callable[[Ask], Found]] = {
    "now_colour": present.now_colour,
    "now_kind": present.now_kind,
    "now_count": present.now_count,
    "now_counter": present.now_counter,
    "now_scene": present.now_scene,
    "now_side": present.now_side,
    "recent_direction": present.recent_direction,
    "recent_appeared": present.recent_appeared,
    "recent_left": present.recent_left,
    "recent_changed": present.recent_changed,
    "recent_colour": present.recent_colour,
    "recent_scene": present.recent_scene,
    "long_first": past.long_first,
    "long_first_colour": past.long_first_colour,
    "long_colour": past.long_colour,
    "long_ever": past.long_ever,
    "long_count": past.long_count,
    "long_together": past.long_together,
    "long_before": past.long_before,
    "long_order": past.long_order,
    "long_scene_first": past.long_scene_first,
    "long_scene_order": past.long_scene_order,
    "long_scene_when": past.long_scene_when,
    "long_counter_when": past.long_counter_when,
}
TYPES: tuple[str, ...] = tuple(_MAKERS)
UNLEARNED: tuple[str, ...] = ()
"""Types within five points of a blind answer on development worlds: asked, scored, and not shipped."""


def horizon_of(type_: str) -> Horizon:
    """The horizon a question type belongs to, which its name begins with."""
    start = type_.split("_", 1)[0]
    return "now" if start == "now" else "recent" if start == "recent" else "long"


def make(
    schedule: Schedule,
    type_: str,
    t: int,
    rng: np.random.Generator,
    min_age_frames: int = LONG_MIN_AGE_FRAMES,
) -> Question | None:
    """Ask one type of question after frame `t`, or None where it has no exact answer then."""
    found = _MAKERS[type_](Ask(schedule, t, rng, min_age_frames))
    if found is None:
        return None
    text, answer, frames, age = found
    return Question(t, type_, horizon_of(type_), text, answer, frames, age)
