"""What tests ask of the Python that pages offer to copy."""

from __future__ import annotations

import ast
import builtins
import json
from collections.abc import Iterable
from typing import Any

from streamlit.testing.v1 import AppTest


def undefined(code: str) -> set[str]:
    """Names that a text uses without importing, assigning or taking them; raises SyntaxError where it is no Python."""
    tree = ast.parse(code)
    nodes = list(ast.walk(tree))
    known = set(dir(builtins))
    known |= {
        (a.asname or a.name).split(".")[0]
        for n in nodes
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    }
    known |= {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    known |= {n.arg for n in nodes if isinstance(n, ast.arg)}
    return {n.id for n in nodes if isinstance(n, ast.Name)} - known


def shown(app: AppTest) -> list[str]:
    """The Python on a page."""
    return [c.value for c in app.code if c.language == "python"]


def complete(app: AppTest) -> AppTest:
    """Every snippet of the page has all that it uses, and every figure its CSV, HTML and SVG; returns the page."""
    found = shown(app)
    assert found
    assert {c: missing for c in found if (missing := undefined(c))} == {}
    files = {_key(b.proto.id) for b in app.get("download_button")}
    for figure in app.get("plotly_chart"):
        assert json.loads(figure.proto.config)["toImageButtonOptions"]["format"] == "svg"
        assert {f"{_key(figure.proto.id)}-{kind}" for kind in ("CSV", "HTML")} <= files
    return app


def _key(widget_id: str) -> str:
    """The key inside of an id that Streamlit made."""
    return widget_id.split("-", 2)[2]


def run(code: str) -> dict[str, Any]:
    """Run a snippet as it stands, but open no window; returns its names."""
    scope: dict[str, Any] = {}
    exec(compile(code.replace(".show()", ""), "<snippet>", "exec"), scope)
    return scope


def one(codes: Iterable[str], *words: str) -> str:
    """The snippet that holds all these words."""
    return next(c for c in codes if all(w in c for w in words))
