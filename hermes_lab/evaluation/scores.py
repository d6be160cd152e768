"""Exact match with intervals that respect that questions of one stream stand and fall together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table

from hermes_lab.worlds import TYPES, horizon_of
from hermes_lab.worlds.majority import baseline

HORIZONS = ("now", "recent", "long")
_RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """Share of questions answered exactly, its 95 % interval, and what a blind constant answer scores."""

    asked: int
    share: float
    low: float
    high: float
    majority: float


@dataclass(frozen=True)
class WorldsResult:
    """Accuracy of one model under one policy on held-out worlds.

    Attributes:
        policy: the retention policy's name and settings, or "full cache, batched".
        seeds: first and last seed.
        seconds: wall time.
    """

    model: str
    policy: str
    streams: int
    frames: int
    questions: int
    seeds: tuple[int, int]
    seconds: float
    by_horizon: Mapping[str, Score]
    by_type: Mapping[str, Score]
    unlearned: tuple[str, ...] = ()
    """Types asked and listed, but left out of the horizons: the shipped model did not learn them."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def table(self) -> str:
        """Text for a terminal or a document."""
        console = _plain_console()
        title = (
            f"{self.model}, {self.policy}: {self.questions} questions on {self.streams} held-out streams "
            f"of {self.frames} frames (seeds {self.seeds[0]} to {self.seeds[1]})"
        )
        grid = Table("", "exact match", "95 % interval", "majority", "asked")
        for name, score in self.by_horizon.items():
            _row(grid, name.upper(), score)
        grid.add_section()
        for name, score in self.by_type.items():
            _row(grid, name + (" *" if name in self.unlearned else ""), score)
        with console.capture() as captured:
            console.print(title, soft_wrap=True)
            console.print(grid)
            if self.unlearned:
                console.print("* not learned in development; not part of its horizon above.")
        return captured.get()


def _plain_console() -> Console:
    """Policies and models are written as they are: brackets in them are no markup."""
    return Console(width=100, no_color=True, force_terminal=False, markup=False, emoji=False)


def _row(grid: Table, name: str, score: Score) -> None:
    interval = f"{score.low:.3f} to {score.high:.3f}"
    grid.add_row(name, f"{score.share:.3f}", interval, f"{score.majority:.3f}", str(score.asked))


def score_by(
    right: Bool[np.ndarray, " question"],
    kind: Int[np.ndarray, " question"],
    stream: Int[np.ndarray, " question"],
    seed: int = 0,
    unlearned: Collection[str] = (),
) -> tuple[dict[str, Score], dict[str, Score]]:
    """Scores by horizon (without `unlearned` types) and by type; `kind` indexes `TYPES`, `stream` the cluster.

    Intervals are percentiles of a bootstrap that draws whole streams with replacement (Efron and
    Tibshirani 1993, chapter 8).
    """
    streams, cluster = np.unique(stream, return_inverse=True)
    counts = np.zeros((2, len(streams), len(TYPES)))
    np.add.at(counts[0], (cluster, kind), right)
    np.add.at(counts[1], (cluster, kind), 1)
    rng = np.random.default_rng(seed)
    weight = rng.multinomial(len(streams), np.full(len(streams), 1 / len(streams)), _RESAMPLES)
    blind = np.array([baseline(k).share for k in TYPES])
    by_type = {
        k: _score(counts[:, :, [i]], weight, blind[[i]])
        for i, k in enumerate(TYPES)
        if counts[1, :, i].any()
    }
    by_horizon: dict[str, Score] = {}
    for horizon in HORIZONS:
        rows = [i for i, k in enumerate(TYPES) if horizon_of(k) == horizon and k not in unlearned]
        if counts[1][:, rows].any():
            by_horizon[horizon] = _score(counts[:, :, rows], weight, blind[rows])
    return by_horizon, by_type


def _score(
    counts: Float[np.ndarray, "2 stream type"],
    weight: Int[np.ndarray, "resample stream"],
    blind: Float[np.ndarray, " type"],
) -> Score:
    right, asked = counts.sum(2)
    drawn = weight @ asked
    shares = (weight @ right)[drawn > 0] / drawn[drawn > 0]
    low, high = np.percentile(shares, [2.5, 97.5])
    each = counts[1].sum(0)
    return Score(
        asked=int(asked.sum()),
        share=float(right.sum() / asked.sum()),
        low=float(low),
        high=float(high),
        majority=float((each * blind).sum() / each.sum()),
    )


@dataclass(frozen=True)
class Comparison:
    """Several policies on the same streams and questions."""

    results: Sequence[WorldsResult]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"results": [r.to_json() for r in self.results]}

    def table(self) -> str:
        """One result in full, or one line per policy and then each in full."""
        if len(self.results) == 1:
            return self.results[0].table()
        console = _plain_console()
        grid = Table("policy", *(h.upper() for h in HORIZONS))
        for result in self.results:
            cells = [result.by_horizon.get(h) for h in HORIZONS]
            grid.add_row(
                result.policy,
                *(f"{c.share:.3f} ({c.low:.3f}-{c.high:.3f})" if c else "-" for c in cells),
            )
        with console.capture() as captured:
            console.print(grid)
        return captured.get() + "\n" + "\n".join(r.table() for r in self.results)
