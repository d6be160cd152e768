"""Finding studies by name: those of this folder, those of installed packages, and those of a notebook.

A study is a module with

* a docstring whose first line is the question that it asks,
* a function `run(context: StudyContext) -> StudyResult` that answers it, and
* if it needs them, `FIGURES`: figure functions of its own, by the names that its `FigureSpec`s say. Each takes the
  columns of its tables and gives a plotly figure, as those of `hermes_lab.figures.studies` do.

A file of this folder becomes a study by its name in `BUILTIN`. A package of your own announces its module under the
entry-point group `hermes_lab.studies`; what lives in a notebook is given to `register`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes_lab.errors import LabError, nearest
from hermes_lab.plugins import Plugins

if TYPE_CHECKING:
    from analysis.context import StudyContext
    from analysis.result import StudyResult
    from hermes_lab.figures.studies import FigureFunction

GROUP = "hermes_lab.studies"
ALL = "all"
BUILTIN: tuple[str, ...] = (
    "recency",
    "anchors",
    "bands",
    "knockout",
    "contribution",
    "guidance",
    "consequence",
    "information_flow",
)
"""Modules of this folder, in the order of a report."""


@dataclass(frozen=True)
class Study:
    """What can be run under a name.

    Attributes:
        name: lower-case letters, digits and underscores.
        question: what it asks, in one line.
        run: answers it.
        figures: figure functions that only this study has, by name.
        origin: "built-in", "registered", or the distribution that it came with.
    """

    name: str
    question: str
    run: Callable[[StudyContext], StudyResult]
    figures: Mapping[str, FigureFunction] = field(default_factory=dict)
    origin: str = "registered"


@dataclass(frozen=True)
class StudyInfo:
    """What a listing says about a study; see `Study`."""

    name: str
    question: str
    origin: str


def get(name: str) -> Study:
    """The study of that name.

    Raises:
        LabError: there is none, or its package cannot be loaded.
    """
    key = name.strip().replace("-", "_")
    if key in BUILTIN:
        return _of_module(key, importlib.import_module(f"{__package__}.{key}"), "built-in")
    if key in _registered:
        return _registered[key]
    if key in _plugins.found():
        return _of_module(key, _plugins.found()[key], _plugins.package(key))
    if key in _plugins.problems():
        raise LabError(_plugins.problems()[key])
    raise LabError(f"There is no study {name!r}: {nearest(key, (*names(), ALL))}")


def names() -> list[str]:
    """All studies that can be run: those of this folder in the order of a report, then the others by name."""
    return [*BUILTIN, *sorted(_plugins.found().keys() | _registered.keys())]


def listing() -> tuple[StudyInfo, ...]:
    """What every study asks; those of this folder are read, not imported."""
    others = [get(name) for name in names()[len(BUILTIN) :]]
    return (
        *(StudyInfo(name, _question_of(name), "built-in") for name in BUILTIN),
        *(StudyInfo(study.name, study.question, study.origin) for study in others),
    )


def problems() -> tuple[str, ...]:
    """One sentence for each installed plug-in that could not be used."""
    return tuple(_plugins.problems().values())


def register(study: Study) -> Study:
    """Make a study of a notebook or script available by its name; may be repeated.

    Raises:
        LabError: it is not complete, or its name belongs to a built-in study.
    """
    fault = _fault(study)
    if fault is None and study.name in BUILTIN:
        fault = f"the name {study.name!r} belongs to a built-in study; choose another"
    if fault is not None:
        raise LabError(f"The study {study.name!r} cannot be registered: {fault}.")
    _registered[study.name] = study
    return study


def unregister(name: str) -> None:
    """Forget a study given to `register`; unknown names are ignored."""
    _registered.pop(name, None)


# --- checks --------------------------------------------------------------------------------------
def _of_module(name: str, module: Any, origin: str) -> Study:
    """What a module says of itself; whether that is enough is for `_fault` to say."""
    doc = inspect.getdoc(module) or ""
    run: Any = getattr(module, "run", None)
    return Study(name, doc.split("\n")[0], run, getattr(module, "FIGURES", {}), origin)


def _fault(study: Study) -> str | None:
    """Why a study cannot be run, or None."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", study.name):
        return "its name must be of lower-case letters, digits and underscores"
    if study.name == ALL:
        return f"{ALL!r} stands for every built-in study; choose another name"
    if not callable(study.run):
        return "it has no function run(context)"
    try:
        inspect.signature(study.run).bind(None)
    except TypeError:
        return "its function run must take the context and nothing else"
    if not study.question.strip():
        return "it has no docstring, whose first line is the question that it asks"
    if not isinstance(study.figures, Mapping):
        return "its FIGURES must map names to functions"
    return _figure_fault(study.figures)


def _figure_fault(figures: Mapping[str, Any]) -> str | None:
    """Why figure functions of a study's own cannot be used, or None."""
    if not figures:
        return None
    from hermes_lab.figures.studies import FUNCTIONS

    for name, function in figures.items():
        if not callable(function):
            return f"its figure {name!r} is not a function"
        if name in FUNCTIONS:
            return f"its figure {name!r} has the name of a shared one; rename it"
    return None


def _plugin_fault(name: str, module: Any) -> str | None:
    return _fault(_of_module(name, module, ""))


def _question_of(name: str) -> str:
    """The first line of a built-in study's docstring."""
    spec = importlib.util.find_spec(f"{__package__}.{name}")
    assert spec is not None and spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


_registered: dict[str, Study] = {}
_plugins = Plugins(GROUP, "study", BUILTIN, _plugin_fault)
