"""Bars and points of the study figures: effects, agreement, answers kept, their nulls beside them."""

from __future__ import annotations

import plotly.graph_objects as go

from hermes_lab.figures.study_parts import (
    NULL,
    Columns,
    add_bars,
    add_reference,
    by_series,
    errors,
    facets,
    panels,
    rows_of,
    unique,
)
from hermes_lab.figures.theme import DASHES, GREY, HORIZONS, SERIES, styled


def depth_models(columns: Columns) -> go.Figure:
    """How much of the change over depth each description predicts on left-out streams."""
    figure = go.Figure()
    rows = rows_of(columns)
    for number, (source, mine) in enumerate(by_series(rows, "source").items()):
        figure.add_bar(
            x=[row["description"] for row in mine], y=[row["explained"] for row in mine], name=source,
            marker={"color": SERIES[number], "pattern": {"shape": "/" if number else ""}},
        )  # fmt: skip
    add_reference(figure, unique(rows, "description"), 0.0, "null: one level for all layers")
    return styled(figure, x="description", y="explained (free curve = 1)", height=320)


def effect_bars(columns: Columns, *, reference: float = 0.0) -> go.Figure:
    """Effects beside matched random ones, grouped by horizon or layers."""
    figure = go.Figure()
    rows = rows_of(columns)
    group = "horizon" if "horizon" in columns else "layers"
    for number, (name, mine) in enumerate(by_series(rows).items()):
        add_bars(figure, mine, group, name, number=number)
    add_reference(figure, unique(rows, group), reference, "no effect", legend=False)
    return styled(figure, x=group, y="drop of the margin", height=320)


def knockout_matrix(columns: Columns) -> go.Figure:
    """Drop for every set, layer range and horizon; the matched random set is the grey cross beside it."""
    rows = rows_of(columns)
    directions = unique(rows, "direction")
    figure = facets([f"{d}: {h}" for d in directions for h in HORIZONS], rows=len(directions))
    for i, direction in enumerate(directions, 1):
        for j, horizon in enumerate(HORIZONS, 1):
            mine = [r for r in rows if r["direction"] == direction and r["horizon"] == horizon]
            for number, (name, some) in enumerate(by_series(mine, "set").items()):
                first = i == 1 and j == 1
                figure.add_scatter(
                    x=[row["layers"] for row in some], y=[row["drop"] for row in some], name=name,
                    legendgroup=name, showlegend=first, mode="markers+lines",
                    marker={"color": SERIES[number % len(SERIES)], "size": 8},
                    line={"dash": DASHES[number % len(DASHES)], "width": 1},
                    error_y=errors(some, "drop"), row=i, col=j,
                )  # fmt: skip
                matched = [
                    row for row in some if row["random_drop"] is not None
                    and row["random_drop"] == row["random_drop"]
                ]  # fmt: skip
                if matched:
                    figure.add_scatter(
                        x=[row["layers"] for row in matched], y=[row["random_drop"] for row in matched],
                        name=f"{name}, matched random", legendgroup=name, showlegend=first,
                        mode="markers", marker={"color": SERIES[number % len(SERIES)], "symbol": "x-thin",
                                                "size": 9, "line": {"color": GREY, "width": 2}},
                        meta=NULL, row=i, col=j,
                    )  # fmt: skip
    panels(figure, height=330 * len(directions))
    return figure.update_yaxes(title_text="drop (all video = 1)", col=1)


def use_bars(columns: Columns) -> go.Figure:
    """Which measure predicts what matters, by horizon."""
    figure = go.Figure()
    for number, (name, mine) in enumerate(by_series(rows_of(columns)).items()):
        add_bars(figure, mine, "horizon", name, number=number)
    return styled(figure, x="horizon", y="share of the use found", height=320)


def horizon_bars(
    columns: Columns, *, x: str, y: str, height: int, ticks: bool | None = None
) -> go.Figure:
    """Bars of each series over the column `x`, one panel per horizon."""
    rows = rows_of(columns)
    figure = facets(HORIZONS)
    for place, horizon in enumerate(HORIZONS, 1):
        mine = [row for row in rows if row["horizon"] == horizon]
        for number, (name, some) in enumerate(by_series(mine).items()):
            add_bars(figure, some, x, name, number=number, place=(1, place), legend=place == 1)
    panels(figure, height=height)
    figure.update_xaxes(showticklabels=ticks)
    return figure.update_yaxes(title_text=y, col=1)
