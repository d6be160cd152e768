"""Everything that a browser session keeps has its name in one place, and no two of them share one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from dashboards.parts import keys

DASHBOARDS = Path(keys.__file__).parents[1]
PAGES = sorted(p for p in DASHBOARDS.rglob("*.py") if p.name != "keys.py")
NAMED = {"initial", "lasting", "at_most", "forget", "remembered", "reported", "Slot"}
"""Functions whose first argument (each argument, for `forget`) is the name of something kept."""


def literals(tree: ast.AST) -> list[str]:
    """Names of things kept that are written where they are used."""
    found: list[str] = []
    for node in ast.walk(tree):
        names: list[ast.expr] = []
        if isinstance(node, ast.Subscript) and _is_session(node.value):
            names = [node.slice]
        elif isinstance(node, ast.Call):
            function = node.func
            called = getattr(function, "attr", getattr(function, "id", ""))
            if called in NAMED or (
                isinstance(function, ast.Attribute) and _is_session(function.value)
            ):
                names = node.args if called == "forget" else node.args[:1]
        found += [ast.unparse(n) for n in names if isinstance(n, ast.Constant | ast.JoinedStr)]
    return found


def _is_session(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "session_state"


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(DASHBOARDS)))
def test_no_name_is_written_where_it_is_used(path: Path) -> None:
    assert literals(ast.parse(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    ['st.session_state["x"]', 'st.session_state.get("x")', 'state.initial("x", 1)', 'forget(a, "x")', 'Slot(f"x{n}")'],
)  # fmt: skip
def test_the_search_finds_what_it_is_for(line: str) -> None:
    assert len(literals(ast.parse(line))) == 1


def test_no_two_names_are_the_same() -> None:
    names = [value for name, value in vars(keys).items() if name.isupper()]
    names += [keys.lab_policy(0), keys.policy_name("p"), keys.policy_budget("p"), keys.player("/a")]
    assert len(names) > 50
    assert len(set(names)) == len(names)
