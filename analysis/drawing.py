"""Figures of a study's result, drawn by shared functions or by the study's own, from the result's own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis import registry
from analysis.result import FigureSpec, ResultIncomplete, StudyResult
from hermes_lab.brief import brief
from hermes_lab.errors import LabError, nearest
from hermes_lab.figures.studies import FUNCTIONS, FigureFunction, draw

_LONGEST = 300  # characters of a reason

if TYPE_CHECKING:
    import plotly.graph_objects as go


def function_of(study: str, name: str) -> FigureFunction:
    """The function that a study means by a name; only what is installed here is called, whatever a report says.

    Raises:
        LabError: neither the shared functions nor the study have one of that name.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    try:
        own = registry.get(study).figures
    except LabError as error:
        raise LabError(
            f"The figure function {name!r} comes with study {study!r}, which cannot be loaded here; "
            "install its package to draw it."
        ) from error
    if name not in own:
        raise LabError(
            f"Study {study!r} has no figure function {brief(name)}: {nearest(name, (*FUNCTIONS, *own))}"
        )
    return own[name]


def drawn(result: StudyResult, spec: FigureSpec) -> go.Figure:
    """One figure of a result.

    Raises:
        LabError: there is no such function, it fails on these tables, or the figure shows no null.
    """
    function = function_of(result.study, spec.function)
    tables = [result.table(name) for name in spec.tables]
    columns = [{c: table.column(c) for c in table.columns} for table in tables]
    try:
        shared = spec.function in FUNCTIONS  # then an error names it as the report does
        return draw(spec.function if shared else function, columns, **spec.options)
    except LabError:
        raise
    except Exception as error:  # whatever a function does on tables that are not for it
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
        raise LabError(
            f"Figure {spec.name!r} of study {result.study!r} cannot be drawn by {spec.function!r} "
            f"({reason}); check the columns of its tables."
        ) from error


def check(result: StudyResult) -> None:
    """Refuse a result whose figures cannot be drawn, before hours of other studies have run.

    Raises:
        ResultIncomplete: a figure names a function that is not there, fails, or shows no null.
    """
    for spec in result.figures:
        try:
            drawn(result, spec)
        except LabError as error:
            raise ResultIncomplete(str(error)) from error
