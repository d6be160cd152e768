"""Answers are exact: each type is answered again here from the list of events alone, and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from hermes_lab.training.vocabulary import WORDS
from hermes_lab.worlds import TYPES, Question, World, horizon_of
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS, SCENES
from hermes_lab.worlds.majority import baseline, measure
from hermes_lab.worlds.questions import LONG_MIN_AGE_FRAMES, RECENT_FRAMES

FRAMES = 96


@dataclass
class Stay:
    """One object's history as a reader of the events would write it down."""

    kind: str
    colour: str
    start: int
    end: int = 10**9
    changed: int = 10**9
    after: str = ""

    def colour_at(self, t: int) -> str:
        return self.after if t >= self.changed else self.colour


class Retelling:
    """What has happened up to a frame, told from `World.events`."""

    def __init__(self, world: World, t: int) -> None:
        self.t = t
        self.stays: dict[int, Stay] = {}
        self.scenes: list[tuple[int, str]] = []
        self.digits: list[tuple[int, str]] = []
        for e in world.events:
            if e.frame > t:
                continue
            if e.what == "appear":
                self.stays[e.thing] = Stay(e.kind, e.value, e.frame)
            elif e.what == "leave":
                self.stays[e.thing].end = e.frame
            elif e.what == "recolour":
                self.stays[e.thing].changed, self.stays[e.thing].after = e.frame, e.value
            elif e.what == "scene":
                self.scenes.append((e.frame, e.value))
            else:
                self.digits.append((e.frame, e.value))

    @property
    def order(self) -> list[Stay]:
        return sorted(self.stays.values(), key=lambda s: s.start)

    @property
    def here(self) -> list[Stay]:
        return [s for s in self.order if s.end > self.t]

    def of(self, kind: str) -> list[Stay]:
        return [s for s in self.order if s.kind == kind]

    def at(self, told: list[tuple[int, str]], t: int) -> str:
        return [v for f, v in told if f <= t][-1]


def _named(q: Question, names: tuple[str, ...]) -> list[str]:
    return [w for w in q.text.split() if w in names]


def _kind(q: Question) -> str:
    return _named(q, KINDS)[0]


def _one_or_none(found: list[str]) -> str:
    return found[0] if found else "none"


def _before(r: Retelling, kind: str) -> str:
    order = r.order
    place = next(i for i, s in enumerate(order) if s.kind == kind)
    return order[place - 1].kind


def _first_scene_of(r: Retelling, names: list[str]) -> str:
    return next(v for _, v in r.scenes if v in names)


EXPECTED: dict[str, Callable[[Retelling, Question], str]] = {
    "now_colour": lambda r, q: _one_or_none(
        [s.colour_at(r.t) for s in r.here if s.kind == _kind(q)]
    ),
    "now_kind": lambda r, q: _one_or_none(
        [s.kind for s in r.here if s.colour_at(r.t) == _named(q, COLOUR_NAMES)[0]]
    ),
    "now_count": lambda r, q: str(len(r.here)),
    "now_counter": lambda r, q: r.digits[-1][1],
    "now_scene": lambda r, q: r.scenes[-1][1],
    "recent_appeared": lambda r, q: r.order[-1].kind,
    "recent_left": lambda r, q: max((s for s in r.order if s.end <= r.t), key=lambda s: s.end).kind,
    "recent_changed": lambda r, q: (
        max((s for s in r.order if s.changed <= r.t), key=lambda s: s.changed).kind
    ),
    "recent_colour": lambda r, q: next(s for s in r.here if s.kind == _kind(q)).colour,
    "recent_scene": lambda r, q: r.scenes[-2][1],
    "long_first": lambda r, q: r.order[0].kind,
    "long_first_colour": lambda r, q: r.order[0].colour,
    "long_colour": lambda r, q: _one_or_none([s.colour for s in r.of(_kind(q))]),
    "long_ever": lambda r, q: "yes" if r.of(_kind(q)) else "no",
    "long_count": lambda r, q: str(len(r.of(_kind(q)))),
    "long_together": lambda r, q: next(
        s.kind for s in r.order if s.kind != _kind(q) and s.start <= r.of(_kind(q))[0].start < s.end
    ),
    "long_before": lambda r, q: _before(r, _kind(q)),
    "long_order": lambda r, q: min(_named(q, KINDS), key=lambda k: r.of(k)[0].start),
    "long_scene_first": lambda r, q: r.scenes[0][1],
    "long_scene_order": lambda r, q: _first_scene_of(r, _named(q, SCENES)),
    "long_scene_when": lambda r, q: r.at(r.scenes, r.of(_kind(q))[0].start),
    "long_counter_when": lambda r, q: r.at(r.digits, r.of(_kind(q))[0].start),
}


@pytest.fixture(scope="module")
def asked() -> list[tuple[World, Question]]:
    found = []
    for seed in range(40):
        world = World.generate(seed, FRAMES)
        times = np.random.default_rng(seed).integers(10, FRAMES, 60).tolist()
        found += [
            (world, q) for q in world.questions(seed, times, weights=dict.fromkeys(TYPES, 1.0))
        ]
    return found


@pytest.mark.parametrize("type_", [k for k in TYPES if k in EXPECTED])
def test_answers_follow_from_the_events(type_: str, asked: list[tuple[World, Question]]) -> None:
    mine = [(w, q) for w, q in asked if q.type == type_]
    assert len(mine) >= 15
    for world, question in mine:
        told = Retelling(world, question.time_frame)
        assert question.answer == EXPECTED[type_](told, question), question


def test_side_and_direction_follow_from_the_pixels() -> None:
    checked = {"now_side": 0, "recent_direction": 0}
    for seed in range(12):
        world = World.generate(seed, 40)
        for q in world.questions(seed, range(5, 40), weights=dict.fromkeys(checked, 1.0)):
            kind = KINDS.index(_kind(q))
            thing = next(o for o in world.schedule.visible(q.time_frame) if o.kind == kind)
            here = thing.at[q.time_frame - thing.start]
            if q.type == "now_side":
                assert q.answer == ("left" if here[0] + 13 < 48 else "right")
            else:
                step = here - thing.at[q.time_frame - 1 - thing.start]
                names = {
                    (0, 0): "still",
                    (1, 0): "right",
                    (-1, 0): "left",
                    (0, 1): "down",
                    (0, -1): "up",
                }
                assert q.answer == names[tuple(np.sign(step).tolist())]
            checked[q.type] += 1
    assert min(checked.values()) > 50


def test_horizons_say_how_old_the_evidence_is(asked: list[tuple[World, Question]]) -> None:
    for _, q in asked:
        assert q.horizon == horizon_of(q.type)
        assert all(0 <= f <= q.time_frame for f in q.evidence_frames)
        if q.horizon == "now":
            assert q.evidence_frames == (q.time_frame,)
            assert q.evidence_age_frames == 0
        elif q.horizon == "recent":
            assert 0 <= q.evidence_age_frames < RECENT_FRAMES
        else:
            assert q.evidence_age_frames >= LONG_MIN_AGE_FRAMES
            if q.type not in (
                "long_order",
                "long_scene_order",
                "long_before",
                "long_count",
                "long_ever",
            ):
                newest = max(q.evidence_frames, default=-1)
                assert q.time_frame - newest <= q.evidence_age_frames or not q.evidence_frames


def test_questions_are_deterministic_and_every_type_occurs(
    asked: list[tuple[World, Question]],
) -> None:
    world = World.generate(8, FRAMES)
    assert world.questions(3, [50, 90], 4) == world.questions(3, [50, 90], 4)
    assert {q.type for _, q in asked} == set(TYPES)
    assert len(world.questions(3, [90], 5)) == 5


def test_the_model_knows_every_word(asked: list[tuple[World, Question]]) -> None:
    words = {w for _, q in asked for w in [*q.text.split(), q.answer]}
    assert words <= set(WORDS)


def test_no_type_can_be_answered_blind(asked: list[tuple[World, Question]]) -> None:
    measured = measure(q for _, q in asked)
    for type_ in TYPES:
        stored = baseline(type_)
        assert stored.share < 0.6
        assert abs(stored.share - measured[type_].share) < 0.25
    assert baseline("long_order").share == pytest.approx(0.5, abs=0.05)
