"""A report: findings with their numbers and nulls, as one HTML page, as JSON, and as CSV behind each figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import codec, page
from analysis.claims import Finding, Verdict
from analysis.result import ChecklistItem, StudyResult, checklist
from hermes_lab.brief import brief
from hermes_lab.errors import LabError
from hermes_lab.files import read_text, write_text

FORMAT = "hermes-lab-report/1"
MOST_BYTES = 2**28
"""Of a report's JSON; a full one of all studies has a few MB."""
_WORD = re.compile(r"[A-Za-z0-9][\w-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class CrossCheck:
    """A claim asked of another model: the positive and negative control of the method, or a replication.

    Attributes:
        kind: "positive control", "negative control" or "replication".
        expected: the verdict that must come out, for controls of the method.
    """

    kind: str
    model: str
    claim: str
    estimate: str
    verdict: Verdict
    because: str
    expected: Verdict | None = None

    @classmethod
    def of(cls, kind: str, model: str, finding: Finding, expected: Verdict | None) -> CrossCheck:
        """One row out of a finding."""
        value, key = str(finding.estimate), finding.claim.key
        return cls(kind, model, key, value, finding.verdict, finding.because, expected)

    @property
    def passed(self) -> bool:
        """Whether what must come out did."""
        return self.expected is None or self.verdict is self.expected


@dataclass(frozen=True)
class StudyReport:
    """Everything that was found about one model.

    Attributes:
        format: `FORMAT` of the version that wrote it.
        command: how it was made.
        controls: the same claims asked of other models.
    """

    format: str
    model: str
    command: str
    studies: tuple[StudyResult, ...]
    controls: tuple[CrossCheck, ...]
    checklist: tuple[ChecklistItem, ...]


def build(
    model: str,
    studies: Sequence[StudyResult],
    controls: Sequence[CrossCheck] = (),
    command: str = "",
) -> StudyReport:
    """Put studies together.

    Raises:
        ControlsMissing: a verdict stands without its controls.
        ResultIncomplete: a study lacks something that readers need.
        LabError: a control of the method failed, so that no verdict of these studies can be believed.
    """
    for study in studies:
        study.validate()
    failed = [c for c in controls if not c.passed]
    if failed:
        first = failed[0]
        raise LabError(
            f"The studies failed their {first.kind} on {first.model}: {first.claim!r} came out as "
            f"{first.verdict.value!r} and must be {first.expected!s}; no verdict is printed."
        )
    return StudyReport(FORMAT, model, command, tuple(studies), tuple(controls), checklist(studies))


def write(report: StudyReport, folder: Path) -> None:
    """Write `report.html`, `report.json`, `summary.md` and `tables/STUDY/TABLE.csv`, each file whole.

    Raises:
        LabError: as for `check_names`, or a file cannot be written.
    """
    check_names(report)
    for study in report.studies:
        for table in study.tables:
            write_text(folder / "tables" / study.study / f"{table.name}.csv", table.csv())
    write_text(folder / "report.json", codec.dumps(report))
    write_text(folder / "summary.md", summary(report))
    write_text(folder / "report.html", page.render(report))


def read(path: Path) -> StudyReport:
    """A report from its JSON file.

    Raises:
        LabError: there is none, or it is damaged.
    """
    if not path.exists():
        raise LabError(f"There is no report at {path}; run `hermes-lab study all`.")
    report = codec.loads(StudyReport, read_text(path, at_most=MOST_BYTES))
    check_names(report)
    return report


def check_names(report: StudyReport) -> None:
    """Names of studies and tables become names of files and parts of addresses: they must be words.

    Raises:
        LabError: one of them is not.
    """
    for study in report.studies:
        for name in (study.study, *(table.name for table in study.tables)):
            if not _WORD.fullmatch(name):
                raise LabError(
                    f"{brief(name)} is no name of a study or table: a name has letters, digits, - and _ only."
                )


# --- words -----------------------------------------------------------------------------------------------
def summary(report: StudyReport) -> str:
    """The verdicts in plain words, as Markdown."""
    lines = [f"# What was found about {report.model}", ""]
    for verdict in Verdict:
        found = [(s, f) for s in report.studies for f in s.findings if f.verdict is verdict]
        if found:
            lines += [f"## {verdict.value.capitalize()} ({len(found)})", ""]
            lines += [f"- {f.claim.sentence} {f.because} [{s.study}]" for s, f in found]
            lines.append("")
    for kind in dict.fromkeys(c.kind for c in report.controls):
        rows = [c for c in report.controls if c.kind == kind]
        lines += [f"## {kind.capitalize()}", ""]
        lines += [f"- {c.model}, {c.claim}: {c.verdict.value} ({c.estimate})" for c in rows]
        lines.append("")
    if report.studies:
        first = report.studies[0]
        seconds = sum(s.reproduce.run_time_s for s in report.studies)
        processor = sum(s.reproduce.cpu_time_s for s in report.studies)
        lines += [
            "## Limits", "", first.scope, "",
            f"{len(first.data.held_out)} held-out and {len(first.data.development)} development streams of "
            f"{first.setup.frames} frames; {sum(s.analyses for s in report.studies)} comparisons were looked at. "
            f"In this run the studies took {seconds / 60:.1f} minutes, {processor / 60:.1f} of processor time "
            f"(what an earlier run had measured is used again), on {first.setup.hardware}.", "", f"    {report.command}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"
