"""What happens in a world, drawn event by event in time order.

Every kind of event has its own random stream and is drawn forward in time, so a world is a prefix of the
longer world with the same seed, and the rate of events does not depend on the length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hermes_lab.worlds.catalogue import (
    COLOUR_NAMES,
    FIELD_PX,
    FRAME_PX,
    KINDS,
    SCENES,
    SPRITE_PX,
    SPRITE_SIZES_PX,
)

Camera = Literal["still", "pan", "panzoom"]
MAX_VISIBLE = 3
CAMERA_REACH_PX = 9
"""How far the camera may wander from the middle of the field."""
_TRIES = 12
_CLEAR_PX = 18
"""Objects this far apart on one axis, or more, are both plainly visible."""
_REPEAT_P = 0.25
_RECOLOUR_P = 0.4
_STILL_P = 0.2
_HIDE_P = 0.12


@dataclass(frozen=True)
class Thing:
    """One object's stay: visible in frames `start` to `end - 1`.

    `at` holds the top-left corner per frame of the stay in field pixels, shape (frames, 2) as x, y.
    `recoloured` is the first frame in `second_colour`, or -1.
    """

    kind: int
    colour: int
    start: int
    end: int
    at: NDArray[np.int64]
    depth: int
    recoloured: int = -1
    second_colour: int = -1

    def colour_at(self, t: int) -> int:
        """Index of the colour in frame `t`."""
        return self.second_colour if 0 <= self.recoloured <= t else self.colour

    def last_seen(self, t: int) -> int:
        """Last frame up to `t` that shows it."""
        return min(self.end - 1, t)


@dataclass(frozen=True)
class Schedule:
    """All events of a world, in time order.

    `scenes` and `counter` are (first frame, scene index or digit); `camera` holds x offset, y offset and
    sprite size in pixels per frame.
    """

    frames: int
    things: tuple[Thing, ...]
    scenes: tuple[tuple[int, int, int], ...]
    counter: tuple[tuple[int, int], ...]
    camera: NDArray[np.int64]

    def scene_at(self, t: int) -> int:
        """Index of the scene in frame `t`."""
        return next(s for start, s, _ in reversed(self.scenes) if start <= t)

    def counter_at(self, t: int) -> int:
        """Digit shown in frame `t`."""
        return next(n for start, n in reversed(self.counter) if start <= t)

    def visible(self, t: int) -> list[Thing]:
        """Objects in frame `t`, oldest first."""
        return [o for o in self.things if o.start <= t < o.end]


def draw(seed: int, frames: int, camera: Camera, density: float) -> Schedule:
    """Draw a world of `frames` frames; `density` scales how often objects appear."""
    streams = np.random.SeedSequence(seed).spawn(4)
    rng = [np.random.default_rng(s) for s in streams]
    return Schedule(
        frames=frames,
        things=_things(rng[0], frames, camera, density),
        scenes=_scenes(rng[1], frames),
        counter=_counter(rng[2], frames),
        camera=_camera(rng[3], frames, camera),
    )


def _scenes(rng: np.random.Generator, frames: int) -> tuple[tuple[int, int, int], ...]:
    scene, t = int(rng.integers(len(SCENES))), 0
    found: list[tuple[int, int, int]] = []
    while t < frames:
        found.append((t, scene, int(rng.integers(1 << 16))))
        t += int(rng.integers(10, 31))
        scene = (scene + int(rng.integers(1, len(SCENES)))) % len(SCENES)
    return tuple(found)


def _counter(rng: np.random.Generator, frames: int) -> tuple[tuple[int, int], ...]:
    digit, t = int(rng.integers(10)), 0
    found: list[tuple[int, int]] = []
    while t < frames:
        found.append((t, digit))
        t += int(rng.integers(4, 13))
        digit = (digit + 1) % 10
    return tuple(found)


def _camera(rng: np.random.Generator, frames: int, camera: Camera) -> NDArray[np.int64]:
    track = np.zeros((frames, 3), np.int64)
    track[:, 2] = SPRITE_PX
    if camera == "still":
        return track
    # Two slow incommensurate waves per axis wander without ever leaving the reach.
    t = np.arange(frames)[:, None]
    period = rng.uniform(12, 40, (2, 2, 2))
    phase = rng.uniform(0, 2 * np.pi, (2, 2, 2))
    wave = np.sin(2 * np.pi * t[..., None] / period[0] + phase[0]).mean(-1)
    track[:, :2] = np.round(wave * CAMERA_REACH_PX)
    if camera == "panzoom":
        zoom = np.sin(2 * np.pi * t[:, 0] / period[1, 0, 0] + phase[1, 0, 0])
        steps = len(SPRITE_SIZES_PX)
        track[:, 2] = np.take(
            SPRITE_SIZES_PX, np.clip(((zoom + 1) / 2 * steps).astype(int), 0, steps - 1)
        )
    return track


def _path(
    rng: np.random.Generator, life: int, margin: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Candidate paths (try, frame, 2) that move along one axis and bounce; speed 0 or 6 to 10 px a frame."""
    low = np.array([margin, margin])
    room = np.array([FRAME_PX, FIELD_PX]) - SPRITE_PX - 2 * margin
    axis = rng.integers(0, 2, _TRIES)
    speed = rng.integers(6, 11, _TRIES) * (rng.random(_TRIES) >= _STILL_P)
    sign = rng.choice([-1, 1], _TRIES)
    origin = rng.integers(0, room + 1, (_TRIES, 2))
    span = room[axis]
    step = np.arange(life)
    raw = origin[np.arange(_TRIES), axis][:, None] + (sign * speed)[:, None] * step
    folded = np.mod(raw, 2 * span[:, None])
    folded = span[:, None] - np.abs(span[:, None] - folded)
    path = np.repeat(origin[:, None, :], life, axis=1)
    path[np.arange(_TRIES)[:, None], step[None, :], axis[:, None]] = folded
    return path + low, speed


def _things(
    rng: np.random.Generator, frames: int, camera: Camera, density: float
) -> tuple[Thing, ...]:
    margin = 0 if camera == "still" else CAMERA_REACH_PX
    cast = rng.permutation(len(KINDS))[: int(rng.integers(12, 29))].tolist()
    things: list[Thing] = []
    t = int(rng.integers(0, 3))
    while t < frames:
        present = [o for o in things if o.end > t]
        if len(present) < MAX_VISIBLE:
            things.append(_thing(rng, t, present, things, cast, margin))
        t += max(1, round(int(rng.integers(3, 8)) / density))
    return tuple(things)


def _choose(paths: NDArray[np.int64], t: int, present: list[Thing], *, hide: bool) -> int:
    """The first path that stays clear of what is there; or, to `hide`, the one that comes closest later on."""
    nearest = np.full(len(paths), FRAME_PX)
    at_first = nearest.copy()
    for other in present:
        shared = min(paths.shape[1], other.end - t)
        theirs = other.at[t - other.start : t - other.start + shared]
        apart = np.abs(paths[:, :shared] - theirs).max(-1)
        nearest = np.minimum(nearest, apart.min(-1))
        at_first = np.minimum(at_first, apart[:, 0])
    if hide:
        return int(np.where(at_first >= _CLEAR_PX, nearest, FRAME_PX).argmin())
    clear = np.flatnonzero(nearest >= _CLEAR_PX)
    return int(clear[0]) if len(clear) else int(nearest.argmax())


def _thing(
    rng: np.random.Generator,
    t: int,
    present: list[Thing],
    past: list[Thing],
    cast: list[int],
    margin: int,
) -> Thing:
    taken_kinds = {o.kind for o in present}
    taken_colours = {c for o in present for c in (o.colour, o.second_colour)}
    met = {o.kind for o in past}
    again = [k for k in cast if k in met and k not in taken_kinds]
    fresh = [k for k in cast if k not in met]
    pool = again if again and (rng.random() < _REPEAT_P or not fresh) else fresh
    kind = pool[int(rng.integers(len(pool)))]
    free = [c for c in range(len(COLOUR_NAMES)) if c not in taken_colours]
    colour = free[int(rng.integers(len(free)))]
    life = int(rng.integers(5, 16))
    ends = {o.end for o in present}
    while t + life in ends:  # one departure a frame, so that "what left last" has one answer
        life += 1
    paths, _ = _path(rng, life, margin)
    best = _choose(paths, t, present, hide=bool(rng.random() < _HIDE_P))
    when, second = -1, -1
    if life >= 8 and rng.random() < _RECOLOUR_P:
        others = [c for c in free if c != colour]
        when = t + int(rng.integers(3, life - 2))
        second = others[int(rng.integers(len(others)))]
        if any(o.recoloured == when for o in present):
            when, second = -1, -1
    return Thing(kind, colour, t, t + life, paths[best], int(rng.integers(1 << 16)), when, second)
