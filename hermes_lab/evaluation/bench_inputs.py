"""What benchmarks feed: random pictures, encoded once, and budgets in proportion to a chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hermes_lab import policies as registry
from hermes_lab.lab import Lab
from hermes_lab.policies.base import Policy
from hermes_lab.segment import Segment

QUESTION = "what was the first object?"
CHUNK_FRAMES = 16
BUDGET_CHUNKS = 2  # what a budget of 6K is to a chunk of 16 frames at 196 tokens per frame

Tick = Callable[[str, int, int], None]
"""Told of every measurement: (title of the table, done, all)."""


def no_tick(title: str, done: int, total: int) -> None:
    """For callers without a progress bar."""


@dataclass(frozen=True)
class Side:
    """One model to be measured.

    Attributes:
        label: how tables name it.
        segment: a chunk of `CHUNK_FRAMES` frames, encoded.
        repeats: measurements behind every median.
    """

    label: str
    lab: Lab
    segment: Segment
    repeats: int
    tick: Tick = no_tick

    @property
    def budget_tokens(self) -> int:
        """Two chunks' worth of visual tokens."""
        return budget_of(self.segment)


def pictures(count: int) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Noise: what is seen does not change what it costs."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(count)]


def encoded_chunk(lab: Lab, frames: int = CHUNK_FRAMES, *, want_saliency: bool = False) -> Segment:
    """So many frames as visual tokens."""
    times = tuple(float(t) for t in range(frames))
    segment = lab.adapter.encode(pictures(frames), times, want_saliency=want_saliency)
    return replace(segment, time_s=times)


def budget_of(segment: Segment) -> int:
    """The budget that goes with a chunk."""
    return BUDGET_CHUNKS * len(segment)


def budgeted(spec: str, budget_tokens: int) -> Policy:
    """A policy by name, with a budget where it takes one in tokens."""
    policy = registry.get(spec)
    if policy.name in ("full", "recent_frames"):
        return policy
    return registry.get(spec, budget_tokens=budget_tokens)
