"""Parts of the study figures: rows of a table, curves with intervals, bars, nulls in grey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hermes_lab.errors import LabError
from hermes_lab.figures.theme import DASHES, GREY, SERIES, rgb, styled

Columns = Mapping[str, Sequence[Any]]
TableRow = Mapping[str, Any]
NULL = {"null": True}
_NULL_WORDS = (
    "random", "permuted", "shuffled", "uniform", "position_only", "age alone", "null", "no agreement", "chance",
)  # fmt: skip


@dataclass(frozen=True)
class BandSeries:
    """A curve of one band of layers under one condition, as tables and saved reports say it: "deep: trained"."""

    band: str
    condition: str

    def __str__(self) -> str:
        return f"{self.band}: {self.condition}"

    @classmethod
    def read(cls, text: object) -> BandSeries:
        """The curve that a table names.

        Raises:
            LabError: it does not name a band and a condition.
        """
        band, colon, condition = str(text).partition(": ")
        if not (band and colon and condition):
            raise LabError(
                f"The series {text!r} must name a band and a condition, as in 'deep: trained'."
            )
        return cls(band, condition)


def is_null(series: str) -> bool:
    """Whether a series is a null by its name."""
    return any(word in series for word in _NULL_WORDS)


def has_null(figure: go.Figure) -> bool:
    """Whether a figure draws a null."""
    return any(getattr(trace, "meta", None) == NULL for trace in figure.data)


def rows_of(columns: Columns) -> list[dict[str, Any]]:
    """A table's rows as dictionaries."""
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def by_series(rows: Sequence[TableRow], key: str = "series") -> dict[str, list[TableRow]]:
    """Rows by series, observed ones first."""
    found: dict[str, list[TableRow]] = {}
    for row in rows:
        found.setdefault(str(row[key]), []).append(row)
    return dict(sorted(found.items(), key=lambda item: is_null(item[0])))


def add_line(
    figure: go.Figure,
    rows: Sequence[TableRow],
    x: str,
    name: str,
    *,
    number: int = 0,
    y: str = "value",
    null: bool | None = None,
    place: tuple[int, int] | None = None,
    legend: bool = True,
    labels: Sequence[str] | None = None,
) -> None:
    """One curve with its interval; nulls grey and dashed, observed points hollow where they touch a null."""
    grey = is_null(name) if null is None else null
    colour = GREY if grey else SERIES[number % len(SERIES)]
    where: dict[str, Any] = {} if place is None else {"row": place[0], "col": place[1]}
    xs = [row[x] for row in rows] if labels is None else list(labels)
    if "low" in rows[0] and y == "value" and not grey:
        red, green, blue = rgb(colour)
        figure.add_scatter(
            x=[*xs, *reversed(xs)],
            y=[*(row["high"] for row in rows), *(row["low"] for row in reversed(rows))],
            mode="lines", fill="toself", fillcolor=f"rgba({red},{green},{blue},0.18)", line={"width": 0},
            hoverinfo="skip", showlegend=False, legendgroup=name, **where,
        )  # fmt: skip
    dash = DASHES[1 + number % (len(DASHES) - 1)] if grey else DASHES[number % len(DASHES)]
    figure.add_scatter(
        x=xs, y=[row[y] for row in rows], name=name, legendgroup=name, showlegend=legend,
        mode="lines" if grey else "lines+markers",
        line={"color": colour, "width": 1.5 if grey else 2.5, "dash": dash},
        marker={"size": 6}, meta=NULL if grey else None,
        customdata=[[row.get("low"), row.get("high")] for row in rows],
        hovertemplate="%{x}: %{y:.3g} [%{customdata[0]:.3g}, %{customdata[1]:.3g}]"
        f"<extra>{name}</extra>", **where,
    )  # fmt: skip


def add_reference(
    figure: go.Figure, xs: Sequence[Any], value: float, name: str, place: tuple[int, int] | None = None,
    legend: bool = True,
) -> None:  # fmt: skip
    """A horizontal line at the value of no effect."""
    where: dict[str, Any] = {} if place is None else {"row": place[0], "col": place[1]}
    figure.add_scatter(
        x=list(xs), y=[value] * len(xs), name=name, legendgroup=name, showlegend=legend, mode="lines",
        line={"color": GREY, "width": 1, "dash": "dot"}, meta=NULL, hoverinfo="skip", **where,
    )  # fmt: skip


def add_bars(
    figure: go.Figure,
    rows: Sequence[TableRow],
    x: str,
    name: str,
    *,
    number: int = 0,
    place: tuple[int, int] | None = None,
    legend: bool = True,
) -> None:
    """Bars with intervals; nulls grey."""
    grey = is_null(name)
    where: dict[str, Any] = {} if place is None else {"row": place[0], "col": place[1]}
    figure.add_bar(
        x=[row[x] for row in rows], y=[row["value"] for row in rows], name=name, legendgroup=name,
        showlegend=legend, marker={"color": GREY if grey else SERIES[number % len(SERIES)],
                                   "pattern": {"shape": "/" if grey else ""}},
        error_y=errors(rows), meta=NULL if grey else None, **where,
    )  # fmt: skip


def errors(
    rows: Sequence[TableRow], value: str = "value", low: str = "low", high: str = "high"
) -> Any:
    """Error bars of plotly from the ends of the rows' intervals; missing ends draw none."""

    def gap(a: Any, b: Any) -> float:
        return 0.0 if a is None or b is None else float(a) - float(b)

    return {
        "type": "data",
        "symmetric": False,
        "array": [gap(r[high], r[value]) for r in rows],
        "arrayminus": [gap(r[value], r[low]) for r in rows],
        "thickness": 1,
        "width": 3,
    }


def facets(titles: Sequence[str], *, rows: int = 1, shared: bool = True) -> go.Figure:
    """An empty figure with one panel for each title, in `rows` rows."""
    columns = -(-len(titles) // rows)
    return make_subplots(
        rows=rows, cols=columns, subplot_titles=list(titles), shared_yaxes=shared,
        horizontal_spacing=0.05, vertical_spacing=0.18,
    )  # fmt: skip


def panels(figure: go.Figure, *, x: str = "", height: int) -> go.Figure:
    """Style a figure of several titled panels; the legend goes below them."""
    styled(figure, x=x, height=height)
    figure.update_layout(
        legend={"orientation": "h", "y": -70 / max(height - 140, 1), "yanchor": "top", "x": 0},
        margin={"t": 36, "b": 110},
    )
    return figure


def unique(rows: Sequence[TableRow], key: str) -> list[Any]:
    """The different values of one column, in the order in which they appear."""
    return list(dict.fromkeys(row[key] for row in rows))


def mark(figure: go.Figure, x: float, line: dict[str, Any], place: tuple[int, int]) -> None:
    """A vertical line in one panel."""
    row, col = place
    cast(Any, figure).add_vline(x=x, line=line, row=row, col=col)  # plotly types panels as text
