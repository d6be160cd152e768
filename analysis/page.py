"""The page of a report: its templates filled in, every value escaped, plotly.js in it once, so that it needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis.codec import to_plain
from analysis.drawing import drawn
from analysis.result import FigureSpec, StudyResult
from hermes_lab.figures.studies import FOOTNOTE
from hermes_lab.figures.theme import CONFIG

if TYPE_CHECKING:
    from analysis.report import StudyReport

TEMPLATES = Path(__file__).with_name("templates")
SHOWN_ROWS = 60


def render(report: StudyReport) -> str:
    """The report as one page.

    Raises:
        LabError: one of its figures cannot be drawn.
    """
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            title=f"Findings on {report.model}",
            plotly=Markup(get_plotlyjs()),
            footnote=FOOTNOTE,
            shown_rows=SHOWN_ROWS,
            picture=picture,
            about=about,
            digits=digits,
            percent=_quoted,
        )
    )


def picture(study: StudyResult, spec: FigureSpec) -> Markup:
    """One figure of a study, ready for the page."""
    figure = drawn(study, spec)
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config=CONFIG))


def about(study: StudyResult) -> Iterator[tuple[str, str]]:
    """Set-up and data of a study, name by name."""
    for name, value in to_plain(study.setup).items():
        yield name, _flat(value)
    for name, value in to_plain(study.data).items():
        yield f"data: {name}", _flat(value)


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {one}" for name, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def digits(value: float, count: int) -> str:
    """A number with `count` significant digits."""
    return f"{value:.{count}g}"


@cache
def _environment() -> Environment:
    """The templates of this package; a name that a template misspells is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _quoted(text: str) -> str:
    """A text in an address; half of a pair of surrogates is written out."""
    return quote(text.encode("utf-8", "backslashreplace"))
