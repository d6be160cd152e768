"""A report: findings with their numbers and nulls, as one HTML page, as JSON, and as CSV behind each figure."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from plotly.offline import get_plotlyjs

from analysis import codec
from analysis.claims import Finding, Verdict
from analysis.drawing import drawn
from analysis.result import ChecklistItem, FigureSpec, StudyResult, Table, checklist
from hermes_lab.errors import LabError
from hermes_lab.figures.studies import FOOTNOTE
from hermes_lab.figures.theme import CONFIG
from hermes_lab.files import write_text

FORMAT = "hermes-lab-report/1"
PAGE = Path(__file__).with_name("report.html")
SHOWN_ROWS = 60


@dataclass(frozen=True)
class Control:
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
    def of(cls, kind: str, model: str, finding: Finding, expected: Verdict | None) -> Control:
        """One row out of a finding."""
        value, key = str(finding.estimate), finding.claim.key
        return cls(kind, model, key, value, finding.verdict, finding.because, expected)

    @property
    def passed(self) -> bool:
        """Whether what must come out did."""
        return self.expected is None or self.verdict is self.expected


@dataclass(frozen=True)
class Report:
    """Everything that was found about one model."""

    format: str
    model: str
    command: str
    studies: tuple[StudyResult, ...]
    controls: tuple[Control, ...]
    checklist: tuple[ChecklistItem, ...]


def build(
    model: str, studies: Sequence[StudyResult], controls: Sequence[Control] = (), command: str = ""
) -> Report:
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
    return Report(FORMAT, model, command, tuple(studies), tuple(controls), checklist(studies))


def write(report: Report, folder: Path) -> None:
    """Write `report.html`, `report.json`, `summary.md` and `tables/STUDY/TABLE.csv`, each file whole."""
    for study in report.studies:
        for table in study.tables:
            write_text(folder / "tables" / study.study / f"{table.name}.csv", table.csv())
    write_text(folder / "report.json", codec.dumps(report))
    write_text(folder / "summary.md", summary(report))
    write_text(folder / "report.html", render(report))


def read(path: Path) -> Report:
    """A report from its JSON file.

    Raises:
        LabError: there is none, or it is damaged.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LabError(f"There is no report at {path}; run `hermes-lab study all`.") from error
    return codec.loads(Report, text)


# --- words -----------------------------------------------------------------------------------------------
def summary(report: Report) -> str:
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


# --- the page ---------------------------------------------------------------------------------------------
def render(report: Report) -> str:
    """The report as one page that needs no network; plotly.js is in it once."""
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=_text(f"Findings on {report.model}"),
        plotly=f"<script>{get_plotlyjs()}</script>",
        model=_text(report.model),
        command=_text(report.command),
        verdicts=_verdicts(report),
        controls=_controls(report),
        checklist=_checklist(report),
        contents="".join(
            f'<li><a href="#{s.study}">{_text(s.title)}</a></li>' for s in report.studies
        ),
        studies="".join(_study(s) for s in report.studies),
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _badge(verdict: Verdict) -> str:
    return f'<span class="verdict {verdict.name.lower()}">{verdict.value}</span>'


def _rows(cells: Sequence[Sequence[str]], header: Sequence[str]) -> str:
    head = "".join(f"<th>{_text(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in cells)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _verdicts(report: Report) -> str:
    cells = [
        (
            f'<a href="#{s.study}">{_text(s.study)}</a>', _text(f.claim.sentence), _badge(f.verdict),
            _text(f.estimate), f"{f.p:.2g}", _text(f.because), _text(f.claim.status),
        )
        for s in report.studies
        for f in s.findings
    ]  # fmt: skip
    return _rows(cells, ("study", "claim", "verdict", "estimate [95 %]", "p", "because", "status"))


def _controls(report: Report) -> str:
    if not report.controls:
        return "<p>Not run here: <code>study all</code> without <code>--quick</code> runs them.</p>"
    cells = [
        (
            _text(c.kind), _text(c.model), _text(c.claim), _badge(c.verdict), _text(c.estimate),
            "" if c.expected is None else _text(f"must be: {c.expected.value}"), _text(c.because),
        )
        for c in report.controls
    ]  # fmt: skip
    return _rows(cells, ("kind", "model", "claim", "verdict", "estimate [95 %]", "", "because"))


def _checklist(report: Report) -> str:
    cells = [
        (
            str(item.number), _text(item.title),
            "covered" if item.satisfied else "<strong>not covered by the studies run</strong>",
            _text(", ".join(item.where)),
        )
        for item in report.checklist
    ]  # fmt: skip
    return _rows(cells, ("", "part", "", "where"))


def _study(study: StudyResult) -> str:
    findings = "".join(_finding(f) for f in study.findings)
    figures = "".join(_figure(study, spec) for spec in study.figures)
    tables = "".join(_table(study, table) for table in study.tables)
    lists = "".join(
        f"<h3>{title}</h3><ul>{''.join(f'<li>{_text(x)}</li>' for x in items)}</ul>"
        for title, items in (
            ("Negative results and surprises", study.negatives), ("Robustness", study.robustness),
        )
    )  # fmt: skip
    setup = codec.to_plain(study.setup) | {
        f"data: {k}": v for k, v in codec.to_plain(study.data).items()
    }
    about = _rows([(_text(k), _text(_flat(v))) for k, v in setup.items()], ("set-up and data", ""))
    r = study.reproduce
    again = (
        f"{r.expected}. This run took {r.run_time_s:.0f} s ({r.cpu_time_s:.0f} s of processor time), with "
        f"{r.reused:.0%} of the results per stream from an earlier run."
    )
    return (
        f'<section id="{study.study}"><h2>{_text(study.title)}</h2>'
        f"<p><em>{_text(study.question)}</em></p>{findings}{figures}{lists}"
        f"<p>{study.analyses} comparisons were looked at in this study.</p>"
        f"<h3>Reproduce</h3><pre>{_text(r.command)}</pre><p>{_text(again)}</p>"
        f"<h3>Scope</h3><p>{_text(study.scope)}</p>"
        f"<details><summary>Set-up and data</summary>{about}</details>"
        f"<h3>Tables</h3>{tables}</section>"
    )


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _finding(f: Finding) -> str:
    claim = f.claim
    strongest = f.panel.strongest
    rows = [
        ("Metric", claim.metric), ("Refuted if", claim.refuted_if),
        ("Estimate", f"{f.estimate}, {f.estimate.n_streams} streams; no effect is {claim.reference:g}, the smallest "
         f"that counts {claim.smallest_effect:g}"),
        ("Strongest null", "none" if strongest is None else f"{strongest.name}: {strongest.estimate}; excess "
         f"{strongest.difference}"),
        ("Because", f.because), ("Status", claim.status), ("Source", claim.paper or "none"),
    ]  # fmt: skip
    cells = [(_text(a), _text(b)) for a, b in rows]
    return (
        f'<div class="finding"><h3>{_badge(f.verdict)} {_text(claim.sentence)}</h3>'
        f"{_rows(cells, ('', ''))}</div>"
    )


def _figure(study: StudyResult, spec: FigureSpec) -> str:
    body = drawn(study, spec).to_html(full_html=False, include_plotlyjs=False, config=CONFIG)
    return (
        f'<figure role="group" aria-label="{_text(spec.title)}: {_text(spec.shows)}">'
        f"<h3>{_text(spec.title)}</h3>{body}<figcaption>{_text(spec.shows)} "
        f"<strong>Cannot tell:</strong> {_text(spec.cannot_tell)} {_text(FOOTNOTE)}</figcaption></figure>"
    )


def _table(study: StudyResult, table: Table) -> str:
    cells = [
        [_text(f"{c:.4g}" if isinstance(c, float) else c) for c in row]
        for row in table.rows[:SHOWN_ROWS]
    ]
    more = len(table.rows) - SHOWN_ROWS
    note = f"<p>{more} more rows in the CSV.</p>" if more > 0 else ""
    link = f"data:text/csv;charset=utf-8,{quote(table.csv())}"
    return (
        f"<details><summary>{_text(table.name)}: {_text(table.caption)}</summary>"
        f'<p><a download="{study.study}-{table.name}.csv" href="{link}">Download CSV</a></p>'
        f"{_rows(cells, table.columns)}{note}</details>"
    )
