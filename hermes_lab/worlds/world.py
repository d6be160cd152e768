"""A world: a seeded stream of frames with its events and the questions that can be asked about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hermes_lab.errors import LabError
from hermes_lab.worlds import render as _render
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS, SCENES
from hermes_lab.worlds.questions import LONG_MIN_AGE_FRAMES, TYPES, UNLEARNED, Question, make
from hermes_lab.worlds.schedule import Camera, Schedule, draw

_TRIES = 30
MOST_FRAMES = 100_000
"""More than a day at one frame per second; drawing the schedule takes a minute then, and grows with the square."""


@dataclass(frozen=True)
class Event:
    """Something that happens in frame `frame`: appear, leave, recolour, scene or counter.

    `thing` is the object's number in order of appearance, or -1; `value` is the new colour, scene or digit.
    """

    frame: int
    what: str
    thing: int
    kind: str
    value: str


@dataclass(frozen=True)
class World:
    """A stream of `frames` frames from one seed; longer worlds of the same seed begin with the same frames."""

    seed: int
    camera: Camera
    density: float
    schedule: Schedule

    @classmethod
    def generate(
        cls, seed: int, frames: int, camera: Camera = "still", density: float = 1.0
    ) -> World:
        """Draw a world.

        Raises:
            LabError: frames below 1 or above 100,000, a negative seed, density outside 0.1 to 2, or an unknown camera.
        """
        if frames < 1:
            raise LabError(f"A world needs at least 1 frame, but {frames} were asked for.")
        if frames > MOST_FRAMES:
            raise LabError(
                f"A world has at most {MOST_FRAMES} frames, but {frames} were asked for; ask for a shorter one."
            )
        if not 0.1 <= density <= 2:
            raise LabError(f"The event density must lie between 0.1 and 2, not {density}.")
        if camera not in ("still", "pan", "panzoom"):
            raise LabError(f"Unknown camera {camera!r}: choose still, pan or panzoom.")
        if seed < 0:
            raise LabError(f"A world's seed must not be negative, but {seed} was given.")
        return cls(seed, camera, density, draw(seed, frames, camera, density))

    @property
    def frames(self) -> int:
        """Length of the stream in frames."""
        return self.schedule.frames

    def frame(self, t: int) -> UInt8[np.ndarray, "96 96 3"]:
        """Frame `t` as RGB."""
        return _render.frame(self.schedule, t)

    def render(self) -> UInt8[np.ndarray, "frames 96 96 3"]:
        """All frames as RGB."""
        return np.stack([self.frame(t) for t in range(self.frames)])

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything that happens, in time order."""
        found: list[Event] = []
        for n, o in enumerate(self.schedule.things):
            kind = KINDS[o.kind]
            found.append(Event(o.start, "appear", n, kind, COLOUR_NAMES[o.colour]))
            if 0 <= o.recoloured < self.frames:
                found.append(
                    Event(o.recoloured, "recolour", n, kind, COLOUR_NAMES[o.second_colour])
                )
            if o.end < self.frames:
                found.append(Event(o.end, "leave", n, kind, ""))
        found += [Event(t, "scene", -1, "", SCENES[s]) for t, s, _ in self.schedule.scenes]
        found += [Event(t, "counter", -1, "", str(n)) for t, n in self.schedule.counter]
        return tuple(sorted(found, key=lambda e: (e.frame, e.what, e.thing)))

    def questions(
        self,
        rng: np.random.Generator | int,
        times: Sequence[int] | None = None,
        per_time: int = 1,
        weights: Mapping[str, float] | None = None,
        min_age_frames: int = LONG_MIN_AGE_FRAMES,
    ) -> list[Question]:
        """Draw `per_time` questions after each of `times` (default: every frame), types by weight
        (default: all shipped types alike).

        A time at which too few types have an exact answer yields fewer questions.
        """
        rng = np.random.default_rng(rng) if isinstance(rng, int) else rng
        shipped = [k for k in TYPES if k not in UNLEARNED]
        chosen = dict.fromkeys(shipped, 1.0) if weights is None else weights
        names = [k for k, w in chosen.items() if w > 0]
        cumulative = np.cumsum([chosen[k] for k in names])
        found: list[Question] = []
        for t in range(self.frames) if times is None else times:
            got = 0
            for roll in rng.random(_TRIES * per_time):
                at = int(np.searchsorted(cumulative, roll * cumulative[-1], side="right"))
                question = make(
                    self.schedule, names[min(at, len(names) - 1)], int(t), rng, min_age_frames
                )
                if question is not None:
                    found.append(question)
                    got += 1
                    if got == per_time:
                        break
        return found

    def to_json(self, questions: Sequence[Question] = ()) -> str:
        """Seed, events and the given questions as JSON."""
        body: dict[str, Any] = {
            "format": "hermes-lab-world/1",
            "seed": self.seed,
            "frames": self.frames,
            "camera": self.camera,
            "density": self.density,
            "events": [asdict(e) for e in self.events],
            "questions": [asdict(q) | {"majority": q.majority} for q in questions],
        }
        return json.dumps(body, indent=1)
