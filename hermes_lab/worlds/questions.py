"""Questions about a stream with exact one-word answers, each with the frames that hold its evidence."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from hermes_lab.worlds.catalogue import COLOUR_NAMES, FRAME_PX, KINDS, SCENES
from hermes_lab.worlds.render import corner, hidden_share
from hermes_lab.worlds.schedule import Schedule, Thing

T = TypeVar("T")
Horizon = Literal["now", "recent", "long"]
RECENT_FRAMES = 8
"""Evidence of a `recent` question was last seen fewer frames ago than this."""
LONG_MIN_AGE_FRAMES = 16
"""Evidence of a `long` question was last seen at least this many frames ago."""
NONE = "none"
_ABSENT_P = 0.15
_HIDDEN = 0.35
_SIDE_MARGIN_PX = 8
_MOVED_PX = 4


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
        return [o for o in present if hidden_share(self.schedule, o, self.t) < _HIDDEN]


Found = tuple[str, str, tuple[int, ...], int] | None
"""Text, answer, evidence frames, evidence age; None where the type cannot be asked at this time."""


def _now_colour(a: Ask) -> Found:
    plain = a.plain()
    if not plain or a.rng.random() < _ABSENT_P:
        kind, colour = a.absent(a.schedule.visible(a.t)), NONE
    else:
        thing = a.pick(plain)
        kind, colour = KINDS[thing.kind], COLOUR_NAMES[thing.colour_at(a.t)]
    text = a.wording(f"what colour is the {kind}", f"what colour is the {kind} now")
    return text, colour, (a.t,), 0


def _now_kind(a: Ask) -> Found:
    plain = a.plain()
    if not plain or a.rng.random() < _ABSENT_P:
        there = {o.colour_at(a.t) for o in a.schedule.visible(a.t)}
        colour = a.pick([c for c in range(len(COLOUR_NAMES)) if c not in there])
        kind = NONE
    else:
        thing = a.pick(plain)
        colour, kind = thing.colour_at(a.t), KINDS[thing.kind]
    name = COLOUR_NAMES[colour]
    text = a.wording(f"which object is {name}", f"what is {name} now", f"what is the {name} object")
    return text, kind, (a.t,), 0


def _now_count(a: Ask) -> Found:
    present = a.schedule.visible(a.t)
    if len(a.plain()) != len(present):
        return None
    text = a.wording(
        "how many objects are visible",
        "how many objects are there now",
        "how many objects do you see",
    )
    return text, str(len(present)), (a.t,), 0


def _now_counter(a: Ask) -> Found:
    text = a.wording(
        "what is the counter", "what number is on the counter", "what does the counter show"
    )
    return text, str(a.schedule.counter_at(a.t)), (a.t,), 0


def _now_scene(a: Ask) -> Found:
    text = a.wording("what is the scene", "what is the scene now", "where are we now")
    return text, SCENES[a.schedule.scene_at(a.t)], (a.t,), 0


def _now_side(a: Ask) -> Found:
    options = []
    for thing in a.plain():
        x, _, size = corner(a.schedule, thing, a.t)
        offset = x + size / 2 - FRAME_PX / 2
        if abs(offset) >= _SIDE_MARGIN_PX:
            options.append((thing, "left" if offset < 0 else "right"))
    if not options:
        return None
    thing, side = a.pick(options)
    text = a.wording(
        f"which side is the {KINDS[thing.kind]} on", f"on which side is the {KINDS[thing.kind]}"
    )
    return text, side, (a.t,), 0


def _recent_direction(a: Ask) -> Found:
    options = []
    for thing in a.plain():
        if thing.start >= a.t:
            continue
        x1, y1, s1 = corner(a.schedule, thing, a.t)
        x0, y0, s0 = corner(a.schedule, thing, a.t - 1)
        dx, dy = x1 - x0 + (s1 - s0) / 2, y1 - y0 + (s1 - s0) / 2
        step = thing.at[a.t - thing.start] - thing.at[a.t - 1 - thing.start]
        if not step.any() and max(abs(dx), abs(dy)) <= 1:
            options.append((thing, "still"))
        elif abs(dx) >= _MOVED_PX and abs(dx) >= 2 * abs(dy):
            options.append((thing, "left" if dx < 0 else "right"))
        elif abs(dy) >= _MOVED_PX and abs(dy) >= 2 * abs(dx):
            options.append((thing, "up" if dy < 0 else "down"))
    if not options:
        return None
    thing, direction = a.pick(options)
    name = KINDS[thing.kind]
    text = a.wording(
        f"which way is the {name} moving",
        f"where is the {name} going",
        f"in which direction is the {name} moving",
    )
    return text, direction, (a.t - 1, a.t), 1


def _recent_appeared(a: Ask) -> Found:
    seen = a.seen
    if not seen or a.t - seen[-1].start >= RECENT_FRAMES:
        return None
    thing = seen[-1]
    text = a.wording(
        "what appeared last", "what just appeared", "which object appeared last", "what is new"
    )
    return text, KINDS[thing.kind], (thing.start,), a.t - thing.start


def _recent_left(a: Ask) -> Found:
    gone = sorted((o for o in a.seen if o.end <= a.t), key=lambda o: o.end)
    if not gone or a.t - gone[-1].end >= RECENT_FRAMES - 1:
        return None
    thing = gone[-1]
    text = a.wording(
        "what left last", "what just left", "which object left last", "what just disappeared"
    )
    return text, KINDS[thing.kind], a.span(thing), a.age(thing)


def _last_change(a: Ask) -> Thing | None:
    changed = [o for o in a.seen if 0 <= o.recoloured <= a.t]
    last = max(changed, key=lambda o: o.recoloured, default=None)
    return last if last and a.t - last.recoloured < RECENT_FRAMES - 1 else None


def _recent_changed(a: Ask) -> Found:
    thing = _last_change(a)
    if thing is None:
        return None
    text = a.wording(
        "what changed colour last", "what just changed colour", "which object changed colour"
    )
    return (
        text,
        KINDS[thing.kind],
        (thing.recoloured - 1, thing.recoloured),
        (a.t - thing.recoloured + 1),
    )


def _recent_colour(a: Ask) -> Found:
    thing = _last_change(a)
    if thing is None or thing.end <= a.t:
        return None
    name = KINDS[thing.kind]
    text = a.wording(
        f"what colour was the {name} before", f"what was the colour of the {name} before"
    )
    before = tuple(range(thing.start, thing.recoloured))
    return text, COLOUR_NAMES[thing.colour], before, a.t - thing.recoloured + 1


def _recent_scene(a: Ask) -> Found:
    past = [s for s in a.schedule.scenes if s[0] <= a.t]
    if len(past) < 2 or a.t - past[-1][0] >= RECENT_FRAMES - 1:
        return None
    start, scene, _ = past[-2]
    text = a.wording("what was the scene before", "what was the last scene before this")
    return text, SCENES[scene], tuple(range(start, past[-1][0])), a.t - past[-1][0] + 1


def _long_first(a: Ask) -> Found:
    seen = a.seen
    if not seen or a.age(seen[0]) < a.min_age:
        return None
    text = a.wording("what was the first object", "what appeared first", "which object came first")
    return text, KINDS[seen[0].kind], a.span(seen[0]), a.age(seen[0])


def _long_first_colour(a: Ask) -> Found:
    seen = a.seen
    if not seen or seen[0].recoloured >= 0 or a.age(seen[0]) < a.min_age:
        return None
    text = a.wording("what colour was the first object", "what was the colour of the first object")
    return text, COLOUR_NAMES[seen[0].colour], a.span(seen[0]), a.age(seen[0])


def _long_colour(a: Ask) -> Found:
    options = [o for o in a.single() if o.recoloured < 0]
    if options and a.rng.random() >= _ABSENT_P:
        thing = a.pick(options)
        kind, colour = KINDS[thing.kind], COLOUR_NAMES[thing.colour]
        frames, age = a.span(thing), a.age(thing)
    elif a.t >= a.min_age:
        kind, colour, frames, age = a.absent(a.seen), NONE, (), a.t + 1
    else:
        return None
    text = a.wording(f"what colour was the {kind}", f"what was the colour of the {kind}")
    return text, colour, frames, age


def _long_ever(a: Ask) -> Found:
    gone = [o for o in a.seen if a.age(o) >= a.min_age]
    here = {o.kind for o in a.seen if a.age(o) < a.min_age}
    gone = [o for o in gone if o.kind not in here]
    if not gone:
        return None
    if a.rng.random() < 0.5:
        thing = a.pick(gone)
        kind, answer = thing.kind, "yes"
        shown = [o for o in gone if o.kind == kind]
        frames = tuple(f for o in shown for f in a.span(o))
        age = min(a.age(o) for o in shown)
        name = KINDS[kind]
    else:
        name, answer, frames, age = a.absent(a.seen), "no", (), a.t + 1
    text = a.wording(f"was there a {name}", f"did you see a {name}", f"was there ever a {name}")
    return text, answer, frames, age


def _long_count(a: Ask) -> Found:
    seen = a.seen
    by_kind: dict[int, list[Thing]] = {}
    for thing in seen:
        by_kind.setdefault(thing.kind, []).append(thing)
    by_count: dict[int, list[list[Thing]]] = {}
    for group in by_kind.values():
        if len(group) <= 3 and a.age(group[0]) >= a.min_age:
            by_count.setdefault(len(group), []).append(group)
    if not by_count:
        return None
    n = a.pick([0, *by_count])
    if n == 0:
        name, frames, age = a.absent(seen), (), a.t + 1
    else:
        group = a.pick(by_count[n])
        name, age = KINDS[group[0].kind], a.age(group[0])
        frames = tuple(f for o in group for f in a.span(o))
    text = a.wording(f"how many times did a {name} appear", f"how many times was there a {name}")
    return text, str(n), frames, age


def _long_together(a: Ask) -> Found:
    options = []
    for thing in a.single():
        others = [o for o in a.schedule.visible(thing.start) if o is not thing]
        if len(others) == 1 and hidden_share(a.schedule, others[0], thing.start) < _HIDDEN:
            options.append((thing, others[0]))
    if not options:
        return None
    thing, other = a.pick(options)
    name = KINDS[thing.kind]
    text = a.wording(
        f"what was there when the {name} appeared", f"what was with the {name} when it appeared"
    )
    return text, KINDS[other.kind], (thing.start,), a.t - thing.start


def _long_before(a: Ask) -> Found:
    seen = a.seen
    single = {id(o) for o in a.single()}
    options = [(p, o) for p, o in itertools.pairwise(seen) if id(o) in single]
    if not options:
        return None
    earlier, thing = a.pick(options)
    name = KINDS[thing.kind]
    text = a.wording(f"what appeared before the {name}", f"which object came before the {name}")
    return text, KINDS[earlier.kind], (earlier.start, thing.start), a.t - earlier.start


def _long_order(a: Ask) -> Found:
    options = a.single()
    if len(options) < 2:
        return None
    i, j = sorted(a.rng.choice(len(options), 2, replace=False).tolist())
    first, second = options[i], options[j]
    x, y = (first, second) if a.rng.random() < 0.5 else (second, first)
    text = a.wording(
        f"which came first the {KINDS[x.kind]} or the {KINDS[y.kind]}",
        f"what appeared first the {KINDS[x.kind]} or the {KINDS[y.kind]}",
    )
    return text, KINDS[first.kind], (first.start, second.start), a.t - first.start


def _long_scene_first(a: Ask) -> Found:
    past = [s for s in a.schedule.scenes if s[0] <= a.t]
    if len(past) < 2 or a.t - past[1][0] + 1 < a.min_age:
        return None
    text = a.wording("what was the first scene", "which scene was first")
    return text, SCENES[past[0][1]], tuple(range(past[1][0])), a.t - past[1][0] + 1


def _long_scene_order(a: Ask) -> Found:
    past = [s for s in a.schedule.scenes if s[0] <= a.t]
    first: dict[int, int] = {}
    for start, scene, _ in past:
        first.setdefault(scene, start)
    options = [s for s in first if a.t - first[s] >= a.min_age]
    if len(options) < 2:
        return None
    i, j = sorted(a.rng.choice(len(options), 2, replace=False).tolist())
    one, two = options[i], options[j]
    x, y = (one, two) if a.rng.random() < 0.5 else (two, one)
    text = f"which scene came first the {SCENES[x]} or the {SCENES[y]}"
    return text, SCENES[one], (first[one], first[two]), a.t - first[one]


def _long_scene_when(a: Ask) -> Found:
    options = a.single()
    if not options:
        return None
    thing = a.pick(options)
    name = KINDS[thing.kind]
    text = a.wording(f"what was the scene when the {name} appeared", f"where did the {name} appear")
    scene = SCENES[a.schedule.scene_at(thing.start)]
    return text, scene, (thing.start,), a.t - thing.start


def _long_counter_when(a: Ask) -> Found:
    options = a.single()
    if not options:
        return None
    thing = a.pick(options)
    text = f"what was the counter when the {KINDS[thing.kind]} appeared"
    return text, str(a.schedule.counter_at(thing.start)), (thing.start,), a.t - thing.start


_MAKERS: dict[str, Callable[[Ask], Found]] = {
    "now_colour": _now_colour,
    "now_kind": _now_kind,
    "now_count": _now_count,
    "now_counter": _now_counter,
    "now_scene": _now_scene,
    "now_side": _now_side,
    "recent_direction": _recent_direction,
    "recent_appeared": _recent_appeared,
    "recent_left": _recent_left,
    "recent_changed": _recent_changed,
    "recent_colour": _recent_colour,
    "recent_scene": _recent_scene,
    "long_first": _long_first,
    "long_first_colour": _long_first_colour,
    "long_colour": _long_colour,
    "long_ever": _long_ever,
    "long_count": _long_count,
    "long_together": _long_together,
    "long_before": _long_before,
    "long_order": _long_order,
    "long_scene_first": _long_scene_first,
    "long_scene_order": _long_scene_order,
    "long_scene_when": _long_scene_when,
    "long_counter_when": _long_counter_when,
}
TYPES: tuple[str, ...] = tuple(_MAKERS)
UNLEARNED: tuple[str, ...] = ("long_order",)
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
