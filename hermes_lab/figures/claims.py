"""A claim's estimate beside its nulls, on one axis."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from hermes_lab.figures.theme import BLUE, GREEN, GREY, ORANGE, VERMILION, styled

ForestRow = tuple[str, str, float, float, float]
_MARKS = {
    "observed": (BLUE, "diamond"),
    "exceed": (ORANGE, "circle"),
    "persist": (GREEN, "square"),
    "capable": (GREY, "triangle-up"),
    "context": (GREY, "x"),
}


def forest(rows: Sequence[ForestRow], reference: float, *, title: str = "") -> go.Figure:
    """Estimates with intervals, one per line: (name, role, value, low, high); the dashed line is "no effect".

    Roles: observed, exceed (a null), persist (a changed setting), context. Ends that are NaN draw no interval.
    """
    figure = go.Figure()
    for role in dict.fromkeys(r for _, r, *_ in rows):
        colour, symbol = _MARKS.get(role, (GREY, "x"))
        mine = [r for r in rows if r[1] == role]
        value = [r[2] for r in mine]
        figure.add_scatter(
            x=value,
            y=[r[0] for r in mine],
            mode="markers",
            name=role,
            marker={"color": colour, "symbol": symbol, "size": 11},
            error_x={
                "type": "data", "symmetric": False, "thickness": 2,
                "array": [_length(r[4] - r[2]) for r in mine],
                "arrayminus": [_length(r[2] - r[3]) for r in mine],
            },
            customdata=[[r[3], r[4]] for r in mine],
            hovertemplate="%{y}: %{x:.4g} [%{customdata[0]:.4g}, %{customdata[1]:.4g}]<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=reference, line={"color": VERMILION, "dash": "dash"})
    styled(figure, title=title, height=110 + 34 * len(rows))
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def _length(value: float) -> float:
    return 0.0 if value != value else max(value, 0.0)
