"""Notebooks and their solutions: their shape, and that they run from top to bottom."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
MOST_BYTES = 600_000


def _read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def _prose(notebook: Any) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def _name(path: Path) -> str:
    return path.stem


def test_there_are_eight_with_a_solution_each() -> None:
    assert [path.stem[:2] for path in LESSONS] == [f"{n:02d}" for n in range(1, 9)]
    assert [path.stem for path in SOLUTIONS] == [f"{path.stem}_solutions" for path in LESSONS]


@pytest.mark.parametrize("path", LESSONS, ids=_name)
def test_a_lesson_says_what_it_gives_needs_and_cannot_tell(path: Path) -> None:
    prose = _prose(_read(path))
    assert "**You will be able to**" in prose
    assert "**You need**" in prose
    assert "## What this cannot tell you" in prose
    exercises = prose.split("## Exercises")[1]
    assert re.findall(r"^(\d)\. ", exercises, re.MULTILINE) == ["1", "2", "3"]
    assert f"solutions/{path.stem}_solutions.ipynb" in exercises


@pytest.mark.parametrize("path", SOLUTIONS, ids=_name)
def test_a_solution_answers_all_three(path: Path) -> None:
    prose = _prose(_read(path))
    assert re.findall(r"^## Exercise (\d)", prose, re.MULTILINE) == ["1", "2", "3"]


@pytest.mark.parametrize("path", [*LESSONS, *SOLUTIONS], ids=_name)
def test_committed_outputs_are_whole_and_small(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    cells = [cell for cell in _read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in kinds
    assert kinds
    assert "/tmp/" not in path.read_text(encoding="utf-8").replace('"/tmp/"', "")


@pytest.mark.notebook
@pytest.mark.parametrize("path", [*LESSONS, *SOLUTIONS], ids=_name)
def test_it_runs(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        "docs_notebooks", ROOT / "scripts" / "docs_notebooks.py"
    )
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    executed = script.execute(path)
    committed = [cell.source for cell in _read(path).cells]
    assert [cell.source for cell in executed.cells] == committed
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error"
