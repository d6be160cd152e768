"""What a study must return: set-up, data, numbers, findings, and the checklist that they are compared with."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from analysis.claims import ControlsMissing, Finding, missing_controls
from hermes_lab.brief import brief
from hermes_lab.errors import LabError


class ResultIncomplete(LabError):
    """A study's result lacks something that readers need to judge it."""


@dataclass(frozen=True)
class Table:
    """Long-format numbers behind a figure; written as CSV.

    Attributes:
        name: file stem, unique in the study.
        columns: their names, with units in them.
        rows: one tuple of cells each.
        caption: what the numbers are.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        """Hold rows to the columns; whoever draws or downloads a table relies on it.

        Raises:
            LabError: a row has more or fewer cells.
        """
        for row in self.rows:
            if len(row) != len(self.columns):
                raise LabError(
                    f"A row of the table {brief(self.name)} has {len(row)} cells under {len(self.columns)} columns."
                )

    def csv(self) -> str:
        """The table as CSV text; floats with nine digits."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        for row in self.rows:
            writer.writerow([f"{c:.9g}" if isinstance(c, float) else c for c in row])
        return out.getvalue()

    def column(self, name: str) -> list[Any]:
        """One column's cells."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


@dataclass(frozen=True)
class FigureSpec:
    """A figure: which function draws which tables, and what it cannot tell.

    Attributes:
        name: unique in the study.
        function: a name in `hermes_lab.figures.studies.FUNCTIONS`, or in the study's own `FIGURES`.
        tables: names of the tables whose columns the function is given, in order.
        title, shows, cannot_tell: the text above and below it.
        options: further arguments of the function.
    """

    name: str
    function: str
    tables: tuple[str, ...]
    title: str
    shows: str
    cannot_tell: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setup:
    """Everything that a number depends on. All fields are required; "none" must be said, not left out."""

    model: str
    revision: str
    versions: Mapping[str, str]
    dtype: str
    attention_impl: str
    frames: int
    fps: float
    resolution: str
    tokens_per_frame: int
    layers: int
    query_heads: int
    kv_heads: int
    prompts: tuple[str, ...]
    cache_policy: str
    query_rows: str
    sink_treatment: str
    head_reduction: str
    hardware: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Data:
    """Which streams were used for what.

    Attributes:
        kind: "procedural worlds", "filmed clips", ...
        development, held_out: names (or seeds) of streams, in order.
        hashes: name -> sha256 of the frames that were fed.
        licence: of the streams.
        selection_rule: how they were chosen, fixed before looking.
        questions: number of questions over all held-out streams.
        moving: streams with a moving camera, if any.
    """

    kind: str
    development: tuple[str, ...]
    held_out: tuple[str, ...]
    hashes: Mapping[str, str]
    licence: str
    selection_rule: str
    questions: int
    moving: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reproduce:
    """How to get the same numbers again.

    Attributes:
        run_time_s, cpu_time_s: wall-clock and processor seconds of this run.
        reused: share of the results per stream that were read from an earlier run's files.
        expected: a number to compare with, and its tolerance.
    """

    command: str
    run_time_s: float
    cpu_time_s: float
    reused: float
    expected: str


@dataclass(frozen=True)
class StudyResult:
    """One study's answer.

    Attributes:
        structural: whether its claims are about attention as such; then nothing may have been evicted.
        negatives: non-replications, surprises, and what was tried without effect.
        robustness: how the estimates move with another prompt, length, seed, without one stream.
        analyses: how many comparisons were looked at, reported or not.
        scope: what these numbers do and do not speak about.
    """

    study: str
    title: str
    question: str
    structural: bool
    quick: bool
    setup: Setup
    data: Data
    findings: tuple[Finding, ...]
    tables: tuple[Table, ...]
    figures: tuple[FigureSpec, ...]
    negatives: tuple[str, ...]
    robustness: tuple[str, ...]
    analyses: int
    reproduce: Reproduce
    scope: str
    covers: tuple[str, ...] = ()

    def table(self, name: str) -> Table:
        """The table of that name."""
        return next(t for t in self.tables if t.name == name)

    def validate(self) -> None:
        """Refuse a result that a reader could not judge.

        Raises:
            ControlsMissing: a verdict stands without its controls.
            ResultIncomplete: a required part is missing; the sentence names it.
        """
        for finding in self.findings:
            lacks = missing_controls(finding.claim, finding.panel)
            if lacks:
                raise ControlsMissing(
                    f"Study {self.study!r} prints a verdict on {finding.claim.key!r} without its "
                    f"controls ({', '.join(lacks)}); run them or drop the verdict."
                )
            if finding.claim.status == "confirmatory" and not (
                self.data.held_out and set(self.data.held_out).isdisjoint(self.data.development)
            ):
                raise ResultIncomplete(
                    f"Claim {finding.claim.key!r} is called confirmatory, but there are no held-out "
                    "streams apart from the development ones."
                )
        for part in (self.setup, self.data, self.reproduce):
            _all_said(self.study, part)
        if self.structural and self.setup.cache_policy != "full":
            raise ResultIncomplete(
                f"Study {self.study!r} makes structural claims on a cache under policy "
                f"{self.setup.cache_policy!r}; attention over a pruned cache is renormalised, use full."
            )
        for name in ("title", "question", "scope", "tables", "figures", "negatives", "robustness"):
            if not getattr(self, name):
                raise ResultIncomplete(f"Study {self.study!r} says nothing under {name!r}.")
        if self.analyses < 1:
            raise ResultIncomplete(f"Study {self.study!r} must state how many analyses it tried.")
        known = {t.name for t in self.tables}
        for figure in self.figures:
            if not figure.tables:
                raise ResultIncomplete(f"Figure {figure.name!r} draws no table; name at least one.")
            for name in figure.tables:
                if name not in known:
                    raise ResultIncomplete(
                        f"Figure {figure.name!r} draws a missing table {name!r}."
                    )


def _all_said(study: str, part: Any) -> None:
    """Every string, tuple and mapping without a default must hold something."""
    optional = {"moving"}
    for f in fields(part):
        value = getattr(part, f.name)
        if f.name not in optional and isinstance(value, str | tuple | Mapping) and not value:
            raise ResultIncomplete(
                f"Study {study!r} leaves {type(part).__name__}.{f.name} empty; say it, or say none."
            )


# --- the checklist -----------------------------------------------------------------------------
CHECKLIST: tuple[tuple[str, str | None], ...] = (
    ("Claims that can be refuted, with metric and status", None),
    ("Set-up in full", None),
    ("Data with hashes, selection rule and split", None),
    ("Estimates per layer and per head with intervals", "per_head"),
    ("Null panel on the same axes", "nulls"),
    ("Mass against value-weighted contribution against logit attribution", "contribution"),
    ("Causal tests in both directions, with matched random controls and dose", "causal"),
    ("Robustness: prompt, length, leave-one-stream-out, stability of top heads", "robustness"),
    ("Consequence for policies, with bands shuffled", "consequence"),
    ("Negative results and the number of analyses", None),
    ("One command, run time, expected numbers, CSV", None),
    ("Scope", None),
)
"""The twelve parts of a report; the second entry is what some study must say that it covers."""


@dataclass(frozen=True)
class ChecklistItem:
    """One part of the checklist and who covers it."""

    number: int
    title: str
    satisfied: bool
    where: tuple[str, ...]


def checklist(results: Sequence[StudyResult]) -> tuple[ChecklistItem, ...]:
    """Hold a report to the checklist; parts without an area are enforced in every study by `validate`."""
    items: list[ChecklistItem] = []
    for number, (title, area) in enumerate(CHECKLIST, 1):
        where = tuple(r.study for r in results if area is None or area in r.covers)
        items.append(ChecklistItem(number, title, bool(where), where))
    return tuple(items)
