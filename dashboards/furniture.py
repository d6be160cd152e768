"""What every view has: a sentence on what it shows and one on what it cannot tell, its code, and its files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from hermes_lab.errors import LabError
from hermes_lab.figures import CONFIG, to_html

LIGHT_INK = "#EDEFF2"
PAGES = {
    "live": "views/live.py",
    "why": "views/why.py",
    "atlas": "views/atlas.py",
    "lab": "views/lab.py",
    "findings": "views/findings.py",
    "recordings": "views/recordings.py",
}


def about(shows: str, cannot_tell: str) -> None:
    """The two sentences of a view."""
    st.caption(f"**Shows:** {shows} **Cannot tell:** {cannot_tell}")


def chart(
    figure: go.Figure,
    *,
    key: str,
    name: str,
    alt: str,
    code: str,
    rows: tuple[Sequence[str], Iterable[Sequence[Any]]],
    on_select: Callable[[], None] | None = None,
) -> None:
    """A plotly figure with its code and its downloads; the camera in its corner saves an SVG."""
    selecting: dict[str, Any] = {}
    if on_select is not None:
        selecting = {"on_select": on_select, "selection_mode": "points"}
    st.plotly_chart(
        _on_this_page(figure), key=key, width="stretch", config=CONFIG, alt=alt, **selecting
    )
    offer(key=key, name=name, code=code, rows=rows, html=lambda: to_html(figure, name))


def _on_this_page(figure: go.Figure) -> go.Figure:
    """The figure with error bars that show on a dark page: Streamlit recolours text and axes, but not those."""
    bars = [t for t in figure.data if t.type in ("bar", "scatter") and t.error_y.array is not None]
    if not bars or st.context.theme.type != "dark":
        return figure
    light = go.Figure(figure)
    light.update_traces(
        error_y_color=LIGHT_INK, selector=lambda t: t.type in ("bar", "scatter") and t.error_y.array is not None
    )  # fmt: skip
    return light


def offer(
    *,
    key: str,
    name: str,
    code: str,
    rows: tuple[Sequence[str], Iterable[Sequence[Any]]] | None = None,
    html: Callable[[], str] | None = None,
    svg: Callable[[], str] | None = None,
    csv_text: Callable[[], str] | None = None,
) -> None:
    """Copy as Python, and downloads that are made when they are asked for."""
    with st.expander("Copy as Python, download"):
        st.code(code.strip(), language="python")
        if rows is not None:
            csv_text = _csv_maker(rows)
        files = [
            ("CSV", csv_text, f"{name}.csv", "text/csv"),
            ("HTML", html, f"{name}.html", "text/html"),
            ("SVG", svg, f"{name}.svg", "image/svg+xml"),
        ]
        columns = st.columns(6)
        for column, (label, make, file, mime) in zip(
            columns, [f for f in files if f[1] is not None], strict=False
        ):
            assert make is not None
            column.download_button(
                label, make, file_name=file, mime=mime, key=f"{key}-{label}", on_click="ignore"
            )
        if svg is None and html is not None:
            st.caption("SVG: the camera in the figure's corner.")


def _csv_maker(rows: tuple[Sequence[str], Iterable[Sequence[Any]]]) -> Callable[[], str]:
    header, lines = rows

    def make() -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
        return out.getvalue()

    return make


def refuse(error: LabError | str) -> None:
    """One clear sentence instead of a traceback."""
    st.error(str(error))


def go_to(page: str, label: str, **params: str) -> None:
    """A link to another page that opens it at a view."""
    st.page_link(PAGES[page], label=label, query_params=params)
