"""What `hermes-lab train-pocket` shows while it trains: phase, share, loss, accuracy by horizon, time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.live import Live
from rich.table import Table

from hermes_lab.cli.console import errors
from hermes_lab.training.config import Recipe

PHASES = ("perception", "decoder")
_BAR = 24
_SEEN = (
    ("colour", "colours"), ("kind", "kinds"), ("scene", "scenes"), ("counter", "counters"),
)  # fmt: skip


class TrainingView:
    """Shows the lines of a run's `progress.jsonl`: a live table on a terminal, else one line each."""

    def __init__(self, recipe: Recipe, clock: Callable[[], float] = time.monotonic) -> None:
        self._weights = {
            phase: float(getattr(recipe, f"{phase}_steps") or getattr(recipe, f"{phase}_minutes"))
            for phase in PHASES
        }
        self._now = clock
        self._first: tuple[float, float] | None = None
        self._rows: dict[str, str] = {}
        self._left = ""
        self._live = Live(console=errors, refresh_per_second=2) if errors.is_terminal else None

    def __enter__(self) -> TrainingView:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, line: dict[str, Any]) -> None:
        """Take in one line."""
        phase = str(line["phase"])
        self._rows[phase] = describe(line)
        if phase in PHASES:
            self._left = self._time_left(self.overall(phase, float(line["share"])))
        if self._live:
            self._live.update(self._table())
        else:
            errors.print(f"{phase}: {self._rows[phase]}{self._left}", soft_wrap=True)

    def overall(self, phase: str, share: float) -> float:
        """Share of the whole run that is over when `share` of a phase is."""
        before = sum(self._weights[p] for p in PHASES[: PHASES.index(phase)])
        return (before + share * self._weights[phase]) / sum(self._weights.values())

    def _time_left(self, overall: float) -> str:
        """From the pace since the first line, so that a run that was taken up again is not misjudged."""
        now = self._now()
        if self._first is None:
            self._first = (now, overall)
            return ""
        begun, start = self._first
        if overall <= start:
            return ""
        seconds = (now - begun) * (1 - overall) / (overall - start)
        return f", about {max(1, round(seconds / 60))} min left"

    def _table(self) -> Table:
        table = Table(box=None, show_header=False, caption=self._left.strip(", ") or None)
        for phase, text in self._rows.items():
            table.add_row(phase, text)
        return table


def describe(line: dict[str, Any]) -> str:
    """One line of progress in words."""
    if line["phase"] == "development":
        return f"{_horizons(line)} on unseen streams of {line['frames']} frames"
    share = float(line["share"])
    filled = round(share * _BAR)
    bar = "█" * filled + "░" * (_BAR - filled)
    head = f"{bar} {share:4.0%}  step {line['step']}  loss {line['loss']:.2f}  "
    if line["phase"] == "decoder":
        return f"{head}{_horizons(line)}  at {line['frames']} frames"
    seen = " ".join(f"{word} {line[key]:.2f}" for key, word in _SEEN)
    copied = (
        f"  of the old tower's tokens {1 - line['unexplained']:.2f}"
        if "unexplained" in line
        else ""
    )
    return f"{head}{seen} place within {line['place_px']:.1f} px{copied}"


def _horizons(line: dict[str, Any]) -> str:
    return " ".join(f"{horizon.upper()} {share:.2f}" for horizon, share in line["accuracy"].items())
