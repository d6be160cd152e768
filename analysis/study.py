"""Run one study or all of them on any model that loads, and write the report.

    hermes-lab study all --model pocket --out reports/pocket

Results per stream lie in `OUT/cache`, each written whole: a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hermes_lab
from analysis import drawing, registry, report
from analysis.claims import Verdict
from analysis.codec import to_plain
from analysis.context import Settings, StudyContext, StudyProgress
from analysis.nulls import random_twin
from analysis.planted import planted_lab
from analysis.registry import Study
from analysis.report import CrossCheck, StudyReport
from analysis.result import ResultIncomplete, StudyResult
from hermes_lab.errors import LabError
from hermes_lab.files import try_folder
from hermes_lab.lab import Lab

logger = logging.getLogger(__name__)

STRUCTURAL = ("recency", "anchors", "bands")
COMPANIONS: dict[str, tuple[str, ...]] = {"pocket": ("pocket-s1", "pocket-s2", "pocket-mrope")}
"""Models on which a report's claims are asked again, where they are there: other seeds, another family."""
UNTRAINED_SEED = 1000  # apart from the seeds of the nulls


@dataclass(frozen=True)
class Outcome:
    """What a run gives back to the command line: the report and where it lies."""

    report: StudyReport
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """Verdicts and paths, as plain data."""
        return {
            "model": self.report.model,
            "report": str(self.folder / "report.html"),
            "json": str(self.folder / "report.json"),
            "findings": [
                {
                    "study": result.study,
                    "claim": f.claim.key,
                    "verdict": f.verdict.value,
                    "estimate": to_plain(f.estimate),
                    "because": f.because,
                }
                for result in self.report.studies
                for f in result.findings
            ],
        }

    def findings(self) -> str:
        """One line per claim."""
        return "\n".join(
            f"{f.verdict.value:14}{f.claim.key:38}{f.because}"
            for result in self.report.studies
            for f in result.findings
        )

    def __str__(self) -> str:
        return f"{self.findings()}\n\nReport: {self.folder / 'report.html'}"


def run(
    name: str,
    model: str = "pocket",
    out: str | Path = "reports/latest",
    quick: bool = False,
    *,
    progress: StudyProgress | None = None,
    settings: Settings | None = None,
    found: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Run one study, or "all", and write HTML, JSON and CSV.

    Args:
        name: one of `registry.names()`, or "all": those of this folder, so that it means the same everywhere.
        model: anything that `hermes_lab.load` takes; "planted" for the positive control; "random:NAME" for an
            untrained network of a model's architecture.
        out: folder of the report, made if missing; an earlier run's results per stream there are used again.
        quick: fewer and shorter streams.
        progress: receives (what, done, total); default: progress bars on a terminal.
        settings: how much to run, instead of the two standard amounts.
        found: receives the result before the report is written, so that a full disk cannot lose it.

    Raises:
        LabError: unknown study or model; the folder cannot be written.
    """
    chosen = registry.BUILTIN if name == registry.ALL else (registry.get(name).name,)
    folder = Path(out)
    try_folder(folder)
    amount = settings or (Settings.quick() if quick else Settings())
    command = f"hermes-lab study {name} --model {model} --out {folder}{' --quick' if quick else ''}"
    with reporting(progress) as tell:
        lab = load_lab(model)
        context = StudyContext(lab, folder, amount, quick, tell, command)
        results = [run_study(study, context) for study in chosen]
        controls: list[CrossCheck] = []
        if name == registry.ALL and not quick:
            small = settings or Settings.quick()
            controls += method_controls(folder, small, tell)
            controls += replications(model, folder, small, tell)
    made = report.build(lab.name, results, controls, command)
    outcome = Outcome(made, folder)
    if found is not None:
        found(outcome)
    report.write(made, folder)
    return outcome


def run_all(
    model: str = "pocket", out: str | Path = "reports/latest", quick: bool = False
) -> Outcome:
    """All studies; see `run`."""
    return run("all", model, out, quick)


def run_study(name: str, context: StudyContext) -> StudyResult:
    """One study on a context, checked.

    Raises:
        LabError: there is no such study, this model cannot be asked it, or it failed.
        ControlsMissing, ResultIncomplete: its result cannot be judged or drawn.
    """
    study = registry.get(name)
    context.begin()
    tell = context.progress
    labelled = replace_progress(
        context, lambda what, done, total: tell(f"{study.name}: {what}", done, total)
    )
    labelled.study = study.name
    result = _answer(study, labelled)
    result.validate()
    drawing.check(result)
    return result


def _answer(study: Study, context: StudyContext) -> StudyResult:
    """What a study found; a failure in somebody else's code is told as theirs."""
    try:
        result: object = study.run(context)
    except LabError:
        raise
    except Exception as error:  # whatever a stranger's study does
        if study.origin == "built-in":
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise LabError(
            f"Study {study.name!r} ({study.origin}) failed with {reason.rstrip('.')}; "
            "HERMES_LAB_DEBUG=1 shows where."
        ) from error
    if not isinstance(result, StudyResult):
        raise ResultIncomplete(
            f"Study {study.name!r} gave back {type(result).__name__}; its run() must return a StudyResult."
        )
    if result.study != study.name:
        raise ResultIncomplete(
            f"Study {study.name!r} calls its result {result.study!r}; both names must be the same."
        )
    return result


def replace_progress(context: StudyContext, progress: StudyProgress) -> StudyContext:
    """The same context - with its caches - reporting elsewhere."""
    other = copy.copy(context)
    other.progress = progress
    return other


def load_lab(model: str) -> Lab:
    """A model by name; "planted" and "random:NAME" are made here."""
    if model == "planted":
        return planted_lab()
    if model.startswith("random:"):
        name = model.removeprefix("random:")
        twin = random_twin(load_lab(name).adapter, UNTRAINED_SEED)
        return Lab(replace(twin, name=f"untrained {name}"))
    return hermes_lab.load(model)


# --- controls of the method, and other models ---------------------------------------------------------
EXPECTED: dict[str, dict[str, Verdict]] = {
    "planted": {
        "recency-shallow": Verdict.SUPPORTED,
        "recency-beyond-position": Verdict.NOT_SUPPORTED,
        "recency-falls-with-depth": Verdict.SUPPORTED,
        "anchors-deep": Verdict.SUPPORTED,
        "anchors-rise-with-depth": Verdict.SUPPORTED,
    },
    "random:planted": {
        "recency-shallow": Verdict.NOT_SUPPORTED,
        "recency-beyond-position": Verdict.NOT_SUPPORTED,
        "recency-falls-with-depth": Verdict.NOT_SUPPORTED,
        "anchors-deep": Verdict.NOT_SUPPORTED,
        "anchors-rise-with-depth": Verdict.NOT_SUPPORTED,
    },
}
"""What the studies must say of the model that holds the findings by construction, and of one that holds none.

The planted recency is made by rotary positions alone, so "beyond position" must come out as not supported there as well.
"""


def method_controls(folder: Path, settings: Settings, progress: StudyProgress) -> list[CrossCheck]:
    """Structural claims on the planted and on an untrained model, beside what must come out."""
    rows: list[CrossCheck] = []
    for model, expected in EXPECTED.items():
        context = StudyContext(
            load_lab(model), folder, settings, True, progress, f"study --model {model}"
        )
        for study in ("recency", "anchors"):
            for f in run_study(study, context).findings:
                must = expected.get(f.claim.key)
                if must is not None:
                    kind = "positive control" if model == "planted" else "negative control"
                    rows.append(CrossCheck.of(kind, context.lab.name, f, must))
    return rows


def replications(
    model: str, folder: Path, settings: Settings, progress: StudyProgress
) -> list[CrossCheck]:
    """The structural and causal claims on other seeds and another family of the same model, where there are any."""
    rows: list[CrossCheck] = []
    for name in COMPANIONS.get(model, ()):
        try:
            lab = load_lab(name)
        except LabError as error:
            logger.info("No replication on %s: %s", name, error)
            continue
        context = StudyContext(lab, folder, settings, True, progress, f"study --model {name}")
        for study in (*STRUCTURAL, "knockout", "consequence"):
            for f in run_study(study, context).findings:
                rows.append(CrossCheck.of("replication", name, f, None))
    return rows


@contextmanager
def reporting(progress: StudyProgress | None) -> Generator[StudyProgress]:
    """The given progress callback, or bars on a terminal's standard error, or nothing."""
    if progress is not None:
        yield progress
        return
    if not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield tell
