"""Figures of the studies: columns of a table in, plotly figure out, the null drawn in every one.

A table is a mapping from column names to equally long lists, as in a report's JSON or CSV. Traces and lines
that show a null carry `meta={"null": True}`, so that a figure without one can be refused.

Reports name these functions by the keys of `FUNCTIONS`, and old reports are read for years: a function here may be
renamed, a key may not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hermes_lab.errors import LabError
from hermes_lab.figures.study_bars import (
    depth_models,
    effect_bars,
    horizon_bars,
    knockout_matrix,
    use_bars,
)
from hermes_lab.figures.study_parts import (
    NULL,
    BandSeries,
    Columns,
    add_line,
    add_reference,
    by_series,
    errors,
    facets,
    has_null,
    is_null,
    mark,
    panels,
    rows_of,
    unique,
)
from hermes_lab.figures.theme import DIVERGING, GREY, HORIZONS, SERIES, styled

FOOTNOTE = "Attention share is a routing measure. Use knockout to test influence."
FigureFunction = Callable[..., go.Figure]
"""Takes the columns of one or more tables, and options by name."""


def draw(function: str | FigureFunction, tables: Sequence[Columns], **options: Any) -> go.Figure:
    """Draw a figure by the name that a report gives, or by a function of a study's own.

    Raises:
        LabError: no figure function has that name, or what it gives is no figure or shows no null.
    """
    if isinstance(function, str):
        if function not in FUNCTIONS:
            raise LabError(f"There is no study figure {function!r}; update the package to draw it.")
        name, function = function, FUNCTIONS[function]
    else:
        name = getattr(function, "__name__", "of this study")
    figure: object = function(*tables, **options)
    if not isinstance(figure, go.Figure):
        raise LabError(
            f"The figure function {name!r} gave back {type(figure).__name__}; it must return a plotly figure."
        )
    if not has_null(figure):
        raise LabError(f"The figure {name!r} shows no null; a finding is not drawn without one.")
    return figure


# --- nulls and heads ---------------------------------------------------------------------------------
def null_panel(columns: Columns) -> go.Figure:
    """Every claim's metric as observed and under each control, on one axis per claim (preconditions, which have
    other units, are left to the table)."""
    rows = [row for row in rows_of(columns) if row["role"] != "capable"]
    names = unique(rows, "claim")
    figure = make_subplots(
        rows=len(names), cols=1, subplot_titles=names, vertical_spacing=min(0.08, 0.5 / len(names))
    )
    styles = {
        "estimate": (SERIES[0], "circle"), "exceed": (GREY, "x"), "persist": (SERIES[2], "diamond"),
        "context": (SERIES[5], "circle-open"),
    }  # fmt: skip
    for place, name in enumerate(names, 1):
        mine = [row for row in rows if row["claim"] == name]
        for role, (colour, symbol) in styles.items():
            chosen = [row for row in mine if row["role"] == role and row["value"] is not None]
            if not chosen:
                continue
            label = {
                "estimate": "observed", "exceed": "null", "persist": "must persist",
                "context": "context",
            }[role]  # fmt: skip
            figure.add_scatter(
                x=[row["value"] for row in chosen], y=[row["condition"] for row in chosen], name=label,
                legendgroup=role, showlegend=place == 1, mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9},
                error_x=errors(chosen), meta=NULL if role == "exceed" else None, row=place, col=1,
            )  # fmt: skip
        observed = next(row["value"] for row in mine if row["role"] == "estimate")
        mark(figure, observed, {"color": SERIES[0], "width": 1}, (place, 1))
    lines = sum(len([r for r in rows if r["claim"] == n]) for n in names)
    return panels(figure, height=140 + 22 * lines + 60 * len(names))


def head_map(columns: Columns, *, label: str = "value", reference: float = 0.0) -> go.Figure:
    """Layer by head, coloured by value around no effect; heads that are not beyond their null are crossed."""
    rows = rows_of(columns)
    layers, heads = unique(rows, "layer"), unique(rows, "head")
    by = {(row["layer"], row["head"]): row for row in rows}
    grid = [[by[layer, head] for head in heads] for layer in layers]
    values = [[row["value"] for row in line] for line in grid]
    known = [v for line in values for v in line if v is not None]
    text = [
        [
            f"layer {r['layer']}, head {r['head']}: {r['value']:.3g} [{r['low']:.3g}, {r['high']:.3g}]<br>"
            f"strongest null {r['strongest_null']}: {r['null_value']:.3g}<br>corrected p {r['p_corrected']:.2g}"
            for r in line
        ]
        for line in grid
    ]
    figure = go.Figure(
        go.Heatmap(
            z=values, x=heads, y=layers, colorscale=DIVERGING, zmid=reference,
            zmin=min([reference, *known]), zmax=max([reference, *known]), colorbar={"title": label}, text=text,
            hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip
    crossed = [row for row in rows if not row["beyond_null"]]
    figure.add_scatter(
        x=[row["head"] for row in crossed], y=[row["layer"] for row in crossed], mode="markers",
        marker={"symbol": "x-thin", "size": 9, "line": {"color": GREY, "width": 2}},
        name="not beyond its strongest null", hoverinfo="skip", meta=NULL, showlegend=True,
    )  # fmt: skip
    styled(figure, x="query head", y="layer", height=120 + 24 * len(layers))
    return figure.update_yaxes(autorange="reversed", dtick=1).update_xaxes(dtick=1)


# --- curves ------------------------------------------------------------------------------------------
def depth_curves(columns: Columns, *, reference: float = 0.0, y: str = "value") -> go.Figure:
    """One quantity by layer: the trained model with its interval, nulls dashed grey."""
    figure = go.Figure()
    rows = rows_of(columns)
    for number, (name, mine) in enumerate(by_series(rows).items()):
        add_line(figure, mine, "layer", name, number=number)
    add_reference(figure, unique(rows, "layer"), reference, "no effect", legend=False)
    return styled(figure, x="layer", y=y, height=380)


def age_profiles(columns: Columns) -> go.Figure:
    """Share over uniform by age, one panel per band."""
    rows = [(BandSeries.read(row["series"]), row) for row in rows_of(columns)]
    bands = list(dict.fromkeys(series.band for series, _ in rows))
    figure = facets(bands)
    for place, band in enumerate(bands, 1):
        mine = [{**row, "series": s.condition} for s, row in rows if s.band == band]
        for number, (name, some) in enumerate(by_series(mine).items()):
            add_line(
                figure, some, "age_frames", name, number=number, place=(1, place), legend=place == 1
            )
    panels(figure, x="age (frames)", height=360)
    return figure.update_yaxes(title_text="share vs uniform (1.0x)", col=1).update_yaxes(type="log")


def forgetting_rates(columns: Columns) -> go.Figure:
    """Fitted rate and fit quality of every head that decays; random networks beside them."""
    figure = go.Figure()
    rows = rows_of(columns)
    for number, (name, mine) in enumerate(by_series(rows).items()):
        shown = [row for row in mine if row["rate_per_frame"] is not None]
        shown = [row for row in shown if row["rate_per_frame"] == row["rate_per_frame"]]
        grey = is_null(name)
        figure.add_scatter(
            x=[row["layer"] for row in shown], y=[row["rate_per_frame"] for row in shown],
            name=f"{name} ({len(shown)} of {len(mine)} heads decay)", mode="markers",
            marker={
                "color": GREY if grey else [row["r2_tail"] for row in shown],
                "colorscale": "Cividis", "cmin": 0, "cmax": 1, "size": 6 if grey else 10,
                "symbol": "x" if grey else "circle", "showscale": not grey,
                "colorbar": {"title": "R2 of the tail"},
            },
            text=[f"head {row['head']}, amplitude {row['amplitude']:.2g}" for row in shown],
            meta=NULL if grey else None, legendrank=number,
        )  # fmt: skip
    styled(figure, x="layer", y="forgetting rate (per frame)", height=360)
    return figure.update_yaxes(type="log")


def slot_maps(columns: Columns, *, cols: int = 1) -> go.Figure:
    """Share of every slot as a map of the frame, one row per band and one column per condition."""
    rows = [(BandSeries.read(row["series"]), row) for row in rows_of(columns)]
    bands = list(dict.fromkeys(series.band for series, _ in rows))
    conditions = list(dict.fromkeys(series.condition for series, _ in rows))
    titles = [str(BandSeries(b, c)) for b in bands for c in conditions]
    figure = facets(titles, rows=len(bands))
    for i, band in enumerate(bands, 1):
        for j, name in enumerate(conditions, 1):
            values = [row["value"] for series, row in rows if series == BandSeries(band, name)]
            grid = [values[a : a + cols] for a in range(0, len(values), cols)]
            figure.add_trace(
                go.Heatmap(
                    z=grid, coloraxis="coloraxis", meta=NULL if is_null(name) else None,
                    hovertemplate="row %{y}, column %{x}: %{z:.2f}x<extra></extra>",
                ),
                row=i, col=j,
            )  # fmt: skip
    panels(figure, height=180 * len(bands) + 60)
    figure.update_layout(
        coloraxis={"colorscale": DIVERGING, "cmid": 1.0, "colorbar": {"title": "share vs uniform"}}
    )
    figure.update_xaxes(showticklabels=False)
    return figure.update_yaxes(autorange="reversed", showticklabels=False)


def feature_curves(columns: Columns, partition: Columns) -> go.Figure:
    """Every feature over depth, with the found change points (solid) and the paper's edges (dotted)."""
    rows, edges = rows_of(columns), rows_of(partition)
    names = unique(rows, "feature")
    figure = facets(names, rows=-(-len(names) // 2), shared=False)
    for place, feature in enumerate(names):
        where = (place // 2 + 1, place % 2 + 1)
        mine = [row for row in rows if row["feature"] == feature]
        for number, (name, some) in enumerate(by_series(mine).items()):
            add_line(figure, some, "layer", name, number=number, place=where, legend=place == 0)
        for edge in edges:
            if edge["source"] == "development":
                for key, dash in (("first_layer", "solid"), ("paper", "dot")):
                    line = {"color": "#000000", "width": 1, "dash": dash}
                    mark(figure, edge[key] - 0.5, line, where)
    return panels(figure, x="layer", height=300 * -(-len(names) // 2))


def feature_heads(columns: Columns) -> go.Figure:
    """Every feature of every head as points over depth; random networks grey."""
    rows = rows_of(columns)
    names = unique(rows, "feature")
    figure = facets(names, rows=-(-len(names) // 2), shared=False)
    for place, feature in enumerate(names):
        mine = [row for row in rows if row["feature"] == feature]
        for number, (name, some) in enumerate(by_series(mine).items()):
            grey = is_null(name)
            figure.add_scatter(
                x=[row["layer"] for row in some], y=[row["value"] for row in some], name=name,
                legendgroup=name, showlegend=place == 0, mode="markers",
                marker={"color": GREY if grey else SERIES[number], "size": 6, "symbol": "x" if grey else "circle"},
                text=[f"head {row['head']}" for row in some], meta=NULL if grey else None,
                row=place // 2 + 1, col=place % 2 + 1,
            )  # fmt: skip
    return panels(figure, x="layer", height=300 * -(-len(names) // 2))


def drop_curves(columns: Columns, *, x: str, title: str, x_type: str | None = None) -> go.Figure:
    """What hiding costs along the column `x` (windows of layers, numbers of frames), one panel per horizon."""
    rows = rows_of(columns)
    figure = facets(HORIZONS)
    for place, horizon in enumerate(HORIZONS, 1):
        mine = [row for row in rows if row["horizon"] == horizon]
        for number, (name, some) in enumerate(by_series(mine).items()):
            add_line(figure, some, x, name, number=number, place=(1, place), legend=place == 1)
        add_reference(figure, unique(mine, x), 0.0, "nothing hidden", (1, place), legend=place == 1)
    panels(figure, x=title, height=340)
    figure.update_xaxes(type=x_type)
    return figure.update_yaxes(title_text="drop (all video = 1)", col=1)


def lens_curves(columns: Columns) -> go.Figure:
    """What the logit lens reads by layer: margin and accuracy, with chance."""
    rows = rows_of(columns)
    figure = facets(("margin", "accuracy"), shared=False)
    for number, (name, mine) in enumerate(by_series(rows).items()):
        add_line(figure, mine, "layer", name, number=number, place=(1, 1))
        add_line(
            figure, mine, "layer", name, number=number, y="accuracy", place=(1, 2), legend=False
        )
        chance = [{**row, "value": row["chance"]} for row in mine]
        add_line(
            figure, chance, "layer", f"chance, {name}", number=number, place=(1, 2), legend=False
        )
    add_reference(figure, unique(rows, "layer"), 0.0, "no preference", (1, 1), legend=False)
    return panels(figure, x="layer", height=340)


def set_shares(columns: Columns) -> go.Figure:
    """Share of token sets under mass, values and logits by layer; uniform is 1."""
    rows = rows_of(columns)
    sets = unique(rows, "set")
    figure = facets(sets, shared=False)
    for place, name in enumerate(sets, 1):
        mine = [row for row in rows if row["set"] == name]
        for number, (measure, some) in enumerate(by_series(mine, "measure").items()):
            add_line(
                figure, some, "layer", measure, number=number, place=(1, place), legend=place == 1
            )
        add_reference(figure, unique(mine, "layer"), 1.0, "uniform", (1, place), legend=place == 1)
    panels(figure, x="layer", height=340)
    return figure.update_yaxes(title_text="share vs uniform", col=1)


_over_windows = partial(drop_curves, x="window", title="window of layers")
FUNCTIONS: dict[str, FigureFunction] = {
    "age_profiles": age_profiles,
    "agreement_bars": partial(horizon_bars, x="band", y="rank correlation", height=380),
    "agreement_curves": partial(depth_curves, y="rank correlation"),
    "depth_curves": depth_curves,
    "depth_models": depth_models,
    "dose_curves": partial(drop_curves, x="frames", title="frames", x_type="log"),
    "effect_bars": effect_bars,
    "feature_curves": feature_curves,
    "feature_heads": feature_heads,
    "forgetting_rates": forgetting_rates,
    "head_map": head_map,
    "knockout_matrix": knockout_matrix,
    "lens_curves": lens_curves,
    "null_panel": null_panel,
    "policy_bars": partial(
        horizon_bars, x="horizon", y="margin kept (full cache = 1)", height=400, ticks=False
    ),
    "route_curves": _over_windows,
    "set_shares": set_shares,
    "slot_maps": slot_maps,
    "use_bars": use_bars,
    "window_curves": _over_windows,
}
"""Every shared figure by the name that a report gives."""
