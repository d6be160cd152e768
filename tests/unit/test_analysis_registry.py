"""Studies by name: the table, plug-ins of packages, studies of a notebook, and figures of a study's own."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import plotly.graph_objects as go
import pytest

import analysis
from analysis import drawing, page, registry, report
from analysis.context import StudyContext
from analysis.registry import Study
from analysis.result import FigureSpec, ResultIncomplete, StudyResult
from analysis.study import run_study
from hermes_lab import plugins
from hermes_lab.cli import main
from hermes_lab.errors import LabError
from hermes_lab.figures.studies import FUNCTIONS
from hermes_lab.figures.study_parts import NULL, Columns

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "run-a-study.md"
EXAMPLE = ROOT / "tests" / "study_example" / "src" / "hermes_lab_first_frame" / "__init__.py"


def answer(context: StudyContext) -> StudyResult:
    raise AssertionError("not run here")


@pytest.fixture
def mine() -> Iterator[Callable[..., Study]]:
    """`mine(**changes)`: a study registered for one test."""
    sound = Study("mine", "Does it?", answer)
    yield lambda **changes: registry.register(replace(sound, **changes))
    registry.unregister("mine")


@pytest.fixture(scope="module")
def saved() -> StudyResult:
    """A result as a report holds it, under the name of a study that `mine` registers."""
    return replace(report.read(ROOT / "reports/pocket/report.json").studies[0], study="mine")


# --- the table -----------------------------------------------------------------------------------
def test_the_guide_and_the_listing_say_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    table = re.findall(r"^\| `(\w+)` \| (.+) \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in table] == list(registry.BUILTIN)
    for name, question in table:
        found = registry.get(name)
        assert (found.name, found.question, found.origin) == (name, question, "built-in")
        assert callable(found.run)
    assert main(["studies", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["question"]) for row in listed] == table
    assert main(["studies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [tuple(line.split(maxsplit=1)) for line in lines] == table


def test_names_are_read_as_they_are_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert registry.get(" information-flow ").name == "information_flow"
    with pytest.raises(LabError, match="There is no study 'recencey': did you mean 'recency'"):
        registry.get("recencey")
    assert main(["study", "recencey"]) == 2
    assert "did you mean 'recency'" in " ".join(capsys.readouterr().err.split())


def test_the_contributors_steps_make_a_built_in_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CONTRIBUTING: a file of the folder whose name is in the table is a study."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = text.split("## Add a study")[1].split("```diff")[1].split("```")[0]
    (name,) = re.findall(r"\+\+\+ b/analysis/(?!registry)(\w+)\.py", steps)
    assert re.search(rf'\+\+\+ b/analysis/registry.py\n  BUILTIN.*\n\+     "{name}",', steps)
    (tmp_path / f"{name}.py").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(analysis, "__path__", [*analysis.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "BUILTIN", (*registry.BUILTIN, name))
    try:
        found = registry.get(name)
    finally:
        sys.modules.pop(f"analysis.{name}", None)
    assert (found.name, found.origin) == (name, "built-in")
    assert found.question == registry.listing()[-1].question
    assert found.question.startswith("Do deep layers go back to the first frame")
    assert list(found.figures) == ["first_frame_heads"]


# --- plug-ins --------------------------------------------------------------------------------------
def _module(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"__doc__": "Does it?\n\nMore.", "run": answer} | changes)


sound = _module(FIGURES={"dots": go.Figure})
silent = _module(__doc__=None)
idle = _module(run=None)
greedy = _module(run=lambda context, more: None)
shadowing = _module(FIGURES={"depth_curves": go.Figure})
no_functions = _module(FIGURES={"dots": 3})
no_mapping = _module(FIGURES=["dots"])
number = 3
FAULTS = {
    "gone": "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    "nothing": "AttributeError",
    "silent": "it has no docstring, whose first line is the question",
    "idle": r"it has no function run\(context\)",
    "number": r"it has no function run\(context\)",
    "greedy": "its function run must take the context and nothing else",
    "shadowing": "its figure 'depth_curves' has the name of a shared one",
    "no_functions": "its figure 'dots' is not a function",
    "no_mapping": "its FIGURES must map names to functions",
    "No-Word": "its name must be of lower-case letters, digits and underscores",
    "all": "'all' stands for every built-in study",
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sound plug-in among faulty ones, as entry points of installed packages would be."""
    values = {
        "gone": "no_such_module_anywhere",
        "nothing": f"{__name__}:no_such_thing",
        "No-Word": f"{__name__}:sound",
        "all": f"{__name__}:sound",
        "recency": f"{__name__}:sound",
        "sound": f"{__name__}:sound",
    }
    names = [*values, *(FAULTS.keys() - values.keys()), "sound"]
    entries = [EntryPoint(n, values.get(n, f"{__name__}:{n}"), registry.GROUP) for n in names]
    monkeypatch.setattr(plugins, "entry_points", lambda group: entries)
    monkeypatch.setattr(registry._plugins, "_found", None)
    monkeypatch.setattr(registry._plugins, "_problems", {})


@pytest.mark.usefixtures("installed")
def test_faulty_packages_are_named_and_left_out(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert registry.names() == [*registry.BUILTIN, "sound"]
    found = registry.get("sound")
    assert (found.question, found.origin, list(found.figures)) == ("Does it?", "plug-in", ["dots"])
    sentences = registry.problems()
    assert len(sentences) == len(FAULTS) + 2  # the name of a built-in study, and the second "sound"
    assert all(s.count("\n") == 0 and s.endswith(".") for s in sentences)
    assert sorted(record.message for record in caplog.records) == sorted(sentences)
    for name, words in FAULTS.items():
        assert any(re.search(words, s) and repr(name) in s for s in sentences), name
    for name in FAULTS.keys() - {"No-Word"}:
        with pytest.raises(LabError, match=FAULTS[name]):
            registry.get(name)
    assert registry.get("recency").origin == "built-in"
    assert main(["studies"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Does it? (plug-in)" in shown
    assert all(sentence in shown for sentence in sentences)


def test_built_in_studies_load_no_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(group: str) -> list[EntryPoint]:
        raise AssertionError("a plug-in was looked for")

    monkeypatch.setattr(plugins, "entry_points", refuse)
    monkeypatch.setattr(registry._plugins, "_found", None)
    assert registry.get("recency").origin == "built-in"


def test_a_notebooks_study_is_known_until_it_is_forgotten(mine: Callable[..., Study]) -> None:
    assert mine() is registry.get("mine")
    assert registry.listing()[-1] == registry.StudyInfo("mine", "Does it?", "registered")
    assert mine(question="Again?").question == registry.get("mine").question
    registry.unregister("mine")
    assert "mine" not in registry.names()
    for changes, words in (
        ({"name": "recency"}, "the name 'recency' belongs to a built-in study"),
        ({"name": "../up"}, "lower-case letters, digits and underscores"),
        ({"question": " "}, "it has no docstring"),
        ({"run": 3}, "it has no function run"),
    ):
        with pytest.raises(LabError, match=words):
            mine(**changes)


# --- what a study may hand in ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("run", "kind", "words"),
    [
        (lambda context: 1 / 0, LabError, r"Study 'mine' \(registered\) failed with ZeroDivision"),
        (lambda context: None, ResultIncomplete, "gave back NoneType; its run"),
        (lambda context: context.other, ResultIncomplete, "calls its result 'recency'"),
        (lambda context: context.bare, ResultIncomplete, "Figure 'bare' draws no table"),
        (lambda context: context.unknown, ResultIncomplete, "no figure function 'dotz': did you"),
    ],
)
def test_a_study_that_breaks_the_contract_is_told(
    mine: Callable[..., Study], saved: StudyResult, run: Any, kind: type[LabError], words: str
) -> None:
    mine(run=run, figures={"dots": go.Figure})
    table = saved.tables[0].name
    context = SimpleNamespace(
        begin=lambda: None,
        progress=lambda *what: None,
        other=replace(saved, study="recency"),
        bare=replace(saved, figures=(FigureSpec("bare", "dots", (), "t", "s", "c"),)),
        unknown=replace(saved, figures=(FigureSpec("x", "dotz", (table,), "t", "s", "c"),)),
    )
    with pytest.raises(kind, match=words):
        run_study("mine", cast(StudyContext, context))


# --- figures ---------------------------------------------------------------------------------------------
def dots(columns: Columns, *, level: float) -> go.Figure:
    figure = go.Figure(go.Scatter(y=list(columns["value"]), mode="markers"))
    return figure.add_scatter(y=[level] * len(columns["value"]), meta=NULL)


@pytest.mark.parametrize("name", registry.BUILTIN)
def test_a_built_in_study_can_be_read_from_top_to_bottom(name: str) -> None:
    """`run` measures, judges, tabulates, draws and tells by calling what does; no function is longer than a screen."""
    module = importlib.import_module(f"analysis.{name}")
    for function in vars(module).values():
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            assert len(inspect.getsource(function).splitlines()) <= 45, function.__name__


def test_an_error_names_a_shared_figure_as_the_report_does(
    saved: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FUNCTIONS, "bare", partial(lambda columns, x: go.Figure(), x="layer"))
    with pytest.raises(LabError, match="The figure 'bare' shows no null"):
        drawing.drawn(saved, FigureSpec("f", "bare", ("depth",), "t", "s", "c"))


def test_a_study_draws_its_own_figures(mine: Callable[..., Study], saved: StudyResult) -> None:
    mine(figures={"dots": dots, "nothing": lambda c: None, "bare": lambda c: go.Figure()})
    spec = FigureSpec("f", "dots", ("depth",), "t", "s", "c", {"level": 1.0})
    figure = drawing.drawn(saved, spec)
    assert list(figure.data[0].y) == saved.table("depth").column("value")
    made = report.build("m", [replace(saved, figures=(spec,))])
    assert '"markers"' in page.render(made)
    for name, words in (
        ("nothing", "gave back NoneType; it must return a plotly figure"),
        ("bare", "shows no null"),
        ("window_curves", r"'f' of study 'mine' cannot be drawn by 'window_curves' \(KeyError"),
    ):
        with pytest.raises(LabError, match=words):
            drawing.drawn(saved, replace(spec, function=name, options={}))


def test_a_report_whose_package_is_not_here_says_so(saved: StudyResult) -> None:
    spec = FigureSpec("f", "dots", ("depth",), "t", "s", "c")
    with pytest.raises(LabError, match="comes with study 'mine', which cannot be loaded here"):
        drawing.drawn(saved, spec)


def test_the_shipped_report_can_still_be_drawn() -> None:
    studies = report.read(ROOT / "reports/pocket/report.json").studies
    used = {spec.function for study in studies for spec in study.figures}
    assert used <= FUNCTIONS.keys()
    for study in studies:
        for spec in study.figures:
            assert drawing.drawn(study, spec).data
