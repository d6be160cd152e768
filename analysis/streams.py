"""Which streams are studied, how they are changed for a control, and how they are fed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from analysis.arrays import Ints, Picture
from analysis.nulls import shuffle_cells, shuffle_frames, shuffle_segments
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab
from hermes_lab.policies.base import Policy
from hermes_lab.segment import Segment
from hermes_lab.stream.session import StreamSession
from hermes_lab.tokens import Role
from hermes_lab.worlds import DEV_SEEDS, HELD_OUT_SEEDS, TYPES, Horizon, Question, World, horizon_of
from hermes_lab.worlds.questions import LONG_MIN_AGE_FRAMES

Camera = Literal["still", "pan", "panzoom"]
Transform = Literal[
    "none", "frames_shuffled", "cells_shuffled", "patches_shuffled", "content_shuffled"
]
HORIZONS: tuple[Horizon, ...] = ("now", "recent", "long")

# Offsets into the ranges of worlds.seeds, fixed before any result was seen; demos use small seeds.
FIRST_DEVELOPMENT = DEV_SEEDS.start + 500_000
FIRST_HELD_OUT = HELD_OUT_SEEDS.start + 700_000
SELECTION_RULE = (
    f"consecutive world seeds from {FIRST_DEVELOPMENT} (development) and {FIRST_HELD_OUT} (held out), less "
    "those with no question of some horizon after the last frame; disjoint from training seeds"
)


@dataclass(frozen=True)
class Stream:
    """One procedural stream with its questions; with a stride, only every `stride`-th frame is shown."""

    seed: int
    frames: int
    camera: Camera = "still"
    stride: int = 1

    @property
    def name(self) -> str:
        """Unique name of what is seen: seed, length, camera, stride."""
        return f"{self.seed}-{self.frames}-{self.camera}-{self.stride}"

    @property
    def world(self) -> World:
        """The world behind it."""
        return _world(self.seed, self.frames, self.camera)

    def images(self) -> list[Picture]:
        """All frames that are shown, RGB; the last frame of the world is always one of them."""
        first = (self.frames - 1) % self.stride
        return list(_render(self.seed, self.frames, self.camera)[first :: self.stride])

    @property
    def digest(self) -> str:
        """SHA-256 of the frames."""
        return hashlib.sha256(_render(self.seed, self.frames, self.camera).tobytes()).hexdigest()

    def questions(self, per_horizon: int) -> list[Question]:
        """Questions after the last frame, `per_horizon` of each horizon, of different types where there are enough."""
        rng = np.random.default_rng(self.seed)
        chosen: list[Question] = []
        for horizon in HORIZONS:
            weights = {t: float(horizon_of(t) == horizon) for t in TYPES}
            pool = self.world.questions(
                rng,
                times=[self.frames - 1],
                per_time=6 * per_horizon,
                weights=weights,
                min_age_frames=min(LONG_MIN_AGE_FRAMES, self.frames // 4),
            )
            first = {q.type: q for q in reversed(pool)}
            texts = {q.text for q in first.values()}
            more = {q.text: q for q in pool if q.text not in texts}
            chosen += [*reversed(first.values()), *more.values()][:per_horizon]
        return chosen


@lru_cache(maxsize=64)
def _world(seed: int, frames: int, camera: Camera) -> World:
    return World.generate(seed, frames, camera=camera)


@lru_cache(maxsize=8)
def _render(seed: int, frames: int, camera: Camera) -> Picture:
    return np.ascontiguousarray(_world(seed, frames, camera).render())


def development(count: int, frames: int) -> tuple[Stream, ...]:
    """Streams on which choices may be made."""
    return _consecutive(FIRST_DEVELOPMENT, count, frames)


def held_out(count: int, frames: int) -> tuple[Stream, ...]:
    """Streams on which claims are tested."""
    return _consecutive(FIRST_HELD_OUT, count, frames)


@lru_cache(maxsize=32)
def _consecutive(first: int, count: int, frames: int) -> tuple[Stream, ...]:
    """Streams of consecutive seeds that can be asked about every horizon (`SELECTION_RULE`)."""
    found: list[Stream] = []
    for seed in range(first, first + 20 * count + 20):
        stream = Stream(seed, frames)
        if {q.horizon for q in stream.questions(1)} == set(HORIZONS):
            found.append(stream)
            if len(found) == count:
                return tuple(found)
    raise LabError(f"Streams of {frames} frames are too short for questions of every horizon.")


# --- feeding -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Grid:
    """Where the video tokens of a full cache are.

    Attributes:
        ids: global ids, [frame, slot]; in a full cache also their place among a layer's keys. Where the
            model merges frames, a "frame" here is one group of them.
    """

    ids: Ints

    @classmethod
    def of(cls, session: StreamSession) -> Grid:
        """The grid of everything that was fed.

        Raises:
            LabError: frames have different numbers of tokens, or something was evicted.
        """
        table = session.table
        visual = np.flatnonzero(table.column("role") == Role.VISUAL)
        frames = np.unique(table.column("frame")[visual])
        if len(visual) % max(len(frames), 1):
            raise LabError("Frames of different numbers of tokens cannot be studied as a grid.")
        if any(state.tokens != len(table) for state in session.stream.cache.states):
            raise LabError("Structural studies need a full cache, but tokens were evicted.")
        return cls(visual.reshape(len(frames), -1))

    @property
    def frames(self) -> int:
        """Frames (or groups of them)."""
        return self.ids.shape[0]

    @property
    def slots(self) -> int:
        """Tokens per frame."""
        return self.ids.shape[1]


def encode(
    lab: Lab, stream: Stream, *, chunk_frames: int = 16, transform: Transform = "none"
) -> list[Segment]:
    """A stream's chunks as decoder inputs, under a control's transform; the last group of frames is a chunk by itself."""
    images = stream.images()
    layout = lab.adapter.frame_layout(*images[0].shape[:2])
    if transform == "frames_shuffled":
        images = shuffle_frames(images, stream.seed)
    elif transform == "cells_shuffled":
        images = shuffle_cells(images, layout.rows, layout.cols, stream.seed)
    last = len(images) - layout.frames_per_group
    edges = [*range(0, last, chunk_frames), last, len(images)]
    segments = [
        lab.adapter.encode(images[a:b], [float(t * stream.stride) for t in range(a, b)])
        for a, b in pairwise(edges)
    ]
    if transform == "patches_shuffled":
        return shuffle_segments(segments, stream.seed)
    if transform == "content_shuffled":
        return shuffle_segments(segments, stream.seed, within="stream")
    return segments


def feed(
    lab: Lab, segments: list[Segment], policy: Policy | str = "full", **options: Any
) -> StreamSession:
    """A session that has seen the whole stream."""
    session = StreamSession(lab, policy, **options)
    for segment in segments:
        session.feed_segment(segment)
    return session
