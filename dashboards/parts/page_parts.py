"""What every view has: a sentence on what it shows and one on what it cannot tell, its code, and its files."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import streamlit as st

from dashboards.parts import state
from dashboards.parts.canvas import png_bytes
from dashboards.parts.plain_text import plain, portable, printable
from dashboards.parts.templates import filled
from hermes_lab.figures import CONFIG, to_html

Rows = tuple[Sequence[str], Sequence[Sequence[Any]]]
"""Column names, and the rows under them: sequences, since a file may be downloaded twice."""
LIGHT_INK = "#EDEFF2"
PAGES = {
    "live": "live/page.py",
    "why": "why/page.py",
    "atlas": "atlas/page.py",
    "lab": "lab/page.py",
    "findings": "findings/page.py",
    "recordings": "recordings/page.py",
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
    rows: Rows,
    on_select: Callable[[], None] | None = None,
) -> None:
    """A plotly figure with its code and its downloads; the camera in its corner saves an SVG."""
    selecting: dict[str, Any] = {}
    if on_select is not None:
        selecting = {"on_select": on_select, "selection_mode": "points"}
    camera = {"toImageButtonOptions": {"format": "svg", "filename": name}}
    st.plotly_chart(
        _on_this_page(figure),
        key=key,
        width="stretch",
        config=CONFIG | camera,
        alt=alt,
        **selecting,
    )
    offer(key=key, name=name, code=code, rows=rows, html=lambda: to_html(figure, name))


def _on_this_page(figure: go.Figure) -> go.Figure:
    """The figure with error bars that show on a dark page: Streamlit recolours text and axes, but not those."""
    traces = cast("tuple[Any, ...]", figure.data)  # plotly's stub says it is a word
    bars = [t for t in traces if t.type in ("bar", "scatter") and t.error_y.array is not None]
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
    rows: Rows | None = None,
    html: Callable[[], str] | None = None,
    svg: Callable[[], str] | None = None,
    csv_text: Callable[[], str] | None = None,
    of: str = "",
) -> None:
    """Copy as Python, and downloads that are made when they are asked for; rows without a figure are a table.

    Args:
        of: what they belong to, where that does not stand right above.
    """
    with st.expander("Copy as Python, download" + (f": {of}" if of else "")):
        st.code(printable(code.strip()), language="python")
        is_table = rows is not None and html is None
        if rows is not None:
            csv_text = csv_text or _csv_maker(rows)
            header, lines = rows
            html = html or (lambda: filled("table.html", name=name, header=header, lines=lines))
        stem = portable(name)
        files = [
            ("CSV", csv_text, f"{stem}.csv", "text/csv"),
            ("HTML", html, f"{stem}.html", "text/html"),
            ("SVG", svg, f"{stem}.svg", "image/svg+xml"),
        ]
        with st.container(horizontal=True, vertical_alignment="center"):
            for label, make, file, mime in files:
                if make is not None:
                    st.download_button(
                        label,
                        _carried(make),
                        file_name=file,
                        mime=mime,
                        key=f"{key}-{label}",
                        on_click="ignore",
                    )
            if svg is None and not is_table:
                st.caption("SVG: point at the figure and press the camera in its corner.")


def _carried(make: Callable[[], str]) -> Callable[[], str]:
    """The same file, of text that UTF-8 can carry."""
    return lambda: printable(make())


def picture_offer(
    picture: Callable[[], npt.NDArray[np.uint8]],
    *,
    key: str,
    name: str,
    alt: str,
    code: str,
    rows: Rows,
    of: str = "",
) -> None:
    """A drawn picture as code and files; its HTML and SVG hold it as PNG."""

    def source() -> str:
        return "data:image/png;base64," + base64.b64encode(png_bytes(picture())).decode()

    def page() -> str:
        return filled("picture.html", source=source(), alt=alt)

    def svg() -> str:
        high, wide = picture().shape[:2]
        return filled("picture.svg", source=source(), alt=alt, width=wide, height=high)

    offer(key=key, name=name, code=code, rows=rows, html=page, svg=svg, of=of)


def _csv_maker(rows: Rows) -> Callable[[], str]:
    header, lines = rows

    def make() -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
        return out.getvalue()

    return make


def refuse(error: Exception | str) -> None:
    """One clear sentence instead of a traceback."""
    st.error(plain(error))


def caution(sentence: str) -> None:
    """A sentence to heed, which may quote names from elsewhere."""
    st.warning(plain(sentence))


def go_to(page: str, label: str, **changes: Any) -> None:
    """A link that opens another page at the view as it is, with these changes: what a link does not carry is lost."""
    view = replace(state.current(), **changes)
    st.page_link(PAGES[page], label=label, query_params=view.to_params())
