"""Policies side by side: what they agree to keep, and how accurate they leave the model, by memory horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from hermes_lab.figures.arrays import Floats
from hermes_lab.figures.theme import HORIZONS, SEQUENTIAL, SERIES, VERMILION, styled

PATTERNS = ("", "/", ".", "x", "\\", "+", "-", "|")


def agreement_map(
    jaccard: npt.NDArray[np.floating], names: Sequence[str], *, title: str = ""
) -> go.Figure:
    """Jaccard similarity of what each two policies hold, [policy, policy], mean over layers."""
    values = np.asarray(jaccard, np.float32)
    figure = go.Figure(
        go.Heatmap(
            z=values, x=list(names), y=list(names), zmin=0, zmax=1, colorscale=SEQUENTIAL,
            text=np.round(values, 2), texttemplate="%{text:.2f}", xgap=2, ygap=2,
            colorbar={"title": {"text": "Jaccard"}, "thickness": 12},
            hovertemplate="%{y} and %{x}: %{z:.3f}<extra></extra>",
        )
    )  # fmt: skip
    styled(figure, title=title, height=130 + 44 * len(names))
    return figure.update_yaxes(autorange="reversed")


def agreement_by_layer(
    jaccard: Mapping[str, npt.NDArray[np.floating]], *, title: str = ""
) -> go.Figure:
    """Jaccard similarity by layer, one line for each pair: "a and b" -> [layer]."""
    figure = go.Figure()
    for n, (pair, values) in enumerate(jaccard.items()):
        figure.add_scatter(
            x=np.arange(len(values)), y=np.asarray(values, float), name=pair, mode="lines+markers",
            line={"color": SERIES[n % len(SERIES)]}, marker={"symbol": n},
        )  # fmt: skip
    figure.update_yaxes(range=[-0.02, 1.02])
    return styled(figure, title=title, x="layer", y="Jaccard of the kept tokens", height=280)


def agreement_over_time(
    frames_seen: npt.NDArray[np.integer], jaccard: npt.NDArray[np.floating], *, title: str = ""
) -> go.Figure:
    """Agreement of two recordings at every common step, [step, layer]."""
    figure = go.Figure(
        go.Heatmap(
            z=np.asarray(jaccard, np.float32).T,
            x=np.asarray(frames_seen),
            zmin=0,
            zmax=1,
            colorscale=SEQUENTIAL,
            colorbar={"title": {"text": "Jaccard"}, "thickness": 12},
            hovertemplate="after frame %{x}, layer %{y}: %{z:.3f}<extra></extra>",
        )
    )
    styled(figure, title=title, x="frames seen", y="layer", height=120 + 18 * jaccard.shape[1])
    return figure.update_yaxes(autorange="reversed")


def accuracy_bars(
    accuracy: Mapping[str, Mapping[str, tuple[float, float, float]]],
    *,
    chance: Mapping[str, float] | None = None,
    title: str = "",
) -> go.Figure:
    """Accuracy by memory horizon with intervals: policy -> horizon -> (value, low, high).

    `chance` is the accuracy of always giving the commonest answer, by horizon; it is drawn as a line.
    Ends that are NaN (too few streams for an interval) leave the bar without one.
    """
    figure = go.Figure()
    horizons = [h for h in HORIZONS if any(h in a for a in accuracy.values())]
    for n, (policy, by_horizon) in enumerate(accuracy.items()):
        points = [by_horizon.get(h, (np.nan, np.nan, np.nan)) for h in horizons]
        value = np.array([p[0] for p in points])
        figure.add_bar(
            x=horizons, y=value, name=policy,
            marker={"color": SERIES[n % len(SERIES)], "pattern": {"shape": PATTERNS[n % len(PATTERNS)]}},
            error_y={
                "type": "data", "symmetric": False, "thickness": 1.5,
                "array": np.nan_to_num([p[2] - p[0] for p in points]),
                "arrayminus": np.nan_to_num([p[0] - p[1] for p in points]),
            },
            customdata=[[p[1], p[2]] for p in points],
            hovertemplate=policy + ", %{x}: %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
        )  # fmt: skip
    for n, horizon in enumerate(horizons):
        if chance and horizon in chance:
            figure.add_shape(
                type="line", x0=n - 0.45, x1=n + 0.45, y0=chance[horizon], y1=chance[horizon],
                line={"color": VERMILION, "dash": "dash", "width": 2},
            )  # fmt: skip
    figure.update_layout(barmode="group")
    figure.update_yaxes(range=[0, 1.05])
    return styled(figure, title=title, x="memory horizon of the question", y="accuracy", height=340)


def held_jaccard(held_a: npt.NDArray[np.bool_], held_b: npt.NDArray[np.bool_]) -> Floats:
    """Jaccard similarity of two held masks over the same tokens, [layer]; 1 where both hold nothing."""
    both = (held_a & held_b).sum(-1)
    either = (held_a | held_b).sum(-1)
    return np.divide(both, either, out=np.ones(both.shape), where=either > 0)


def knockout_bars(
    targeted: npt.NDArray[np.floating],
    random: npt.NDArray[np.floating],
    labels: Sequence[str],
    *,
    title: str = "",
) -> go.Figure:
    """Change of the answer's logit, the chosen tokens hidden, beside matched random sets: [label], [draw, label]."""
    figure = go.Figure()
    figure.add_bar(
        x=list(labels), y=np.asarray(targeted, float), name="chosen tokens hidden",
        marker={"color": SERIES[0]},
    )  # fmt: skip
    spread = np.asarray(random, float)
    figure.add_bar(
        x=list(labels), y=spread.mean(0), name="as many random tokens hidden (mean and range)",
        marker={"color": SERIES[1], "pattern": {"shape": "/"}},
        error_y={
            "type": "data", "symmetric": False,
            "array": spread.max(0) - spread.mean(0), "arrayminus": spread.mean(0) - spread.min(0),
        },
    )  # fmt: skip
    figure.update_layout(barmode="group")
    return styled(figure, title=title, y="change of the logit", height=300)
