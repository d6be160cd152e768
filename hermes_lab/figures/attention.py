"""Attention by layer, head and frame: the atlas, a head's frames, a frame's heads, and scores beside their nulls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from hermes_lab.figures.arrays import Floats
from hermes_lab.figures.theme import DIVERGING, GREY, ORANGE, SEQUENTIAL, styled
from hermes_lab.snapshot import AttentionSummary
from hermes_lab.tokens import Role

Metric = Literal["recency", "anchor", "sink", "entropy"]

METRICS: dict[str, str] = {
    "recency": "How much younger the attended video is than the video that is held: 0 is uniform, 1 only the "
    "newest frame.",
    "anchor": "Mass on the one frame that gets most, over the share that uniform attention gives its tokens: "
    "1 is uniform.",
    "sink": "Mass on the first cached token, over its uniform share of one key in all: 1 is uniform.",
    "entropy": "Entropy over the logarithm of the visible keys: 1 is uniform, 0 a single key.",
}
NULLS: dict[str, float] = {"recency": 0.0, "anchor": 1.0, "sink": 1.0, "entropy": 1.0}
"""What uniform attention over the same keys would score."""
LOGARITHMIC = ("anchor", "sink")


@dataclass(frozen=True)
class HeldFrames:
    """The video that was there to be attended to when attention was read.

    Attributes:
        tokens: tokens of each frame in each layer, [layer, frame].
        time_s: of each frame, [frame].
        now_s: of the newest frame.
    """

    tokens: Floats
    time_s: Floats
    now_s: float


def frame_shares(summary: AttentionSummary, *, sinks: bool) -> Floats:
    """Mass by frame, [layer, head, frame]; without sinks, as a share of what falls on video at all."""
    mass = np.asarray(summary.frame_mass, float)
    if sinks:
        return mass
    total = mass.sum(-1, keepdims=True)
    return np.divide(mass, total, out=np.zeros(mass.shape), where=total > 0)


def head_scores(summary: AttentionSummary, held: HeldFrames, metric: Metric) -> Floats:
    """One score per head, [layer, head]; `NULLS` says what uniform attention would give. NaN where undefined."""
    share = frame_shares(summary, sinks=False)
    frames = min(share.shape[-1], held.tokens.shape[-1])
    share, tokens = share[..., :frames], held.tokens[:, :frames]
    uniform = tokens / np.maximum(tokens.sum(-1, keepdims=True), 1)
    seen = share.sum(-1) > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "recency":
            age = held.now_s - held.time_s[:frames]
            expected = (uniform * age).sum(-1)[:, None]
            score = 1 - (share * age).sum(-1) / expected
        elif metric == "anchor":
            # the frame must be held: mass cannot fall on tokens that are gone
            ratio = np.where(uniform[:, None] > 0, share / uniform[:, None], 0.0)
            score = ratio.max(-1)
        elif metric == "sink":
            visible = np.asarray(summary.visible, float)[:, None]
            return np.asarray(summary.sink_share, float) * visible
        else:
            return (
                np.asarray(summary.entropy, float)
                / np.log(np.maximum(np.asarray(summary.visible, float), 2))[:, None]
            )
    return np.where(seen, score, np.nan)


def atlas(
    scores: npt.NDArray[np.floating],
    *,
    metric: str = "recency",
    title: str = "",
    chosen: tuple[int, int] | None = None,
    height: int | None = None,
) -> go.Figure:
    """Layer x head map of a score, coloured by its distance from the null; every cell can be clicked.

    Clicks reach Streamlit from an invisible scatter over the heat map (customdata: layer, head), because a
    heat map's own clicks do not.
    """
    values = np.asarray(scores, float)
    layers, heads = values.shape
    null = NULLS.get(metric)
    shown = np.log2(np.maximum(values, 2**-6)) if metric in LOGARITHMIC else values
    middle = 0.0 if null is None or metric in LOGARITHMIC else null
    if null is None:
        low, high = 0.0, float(np.nanmax(values, initial=1e-9))
    else:
        reach = float(np.nanmax(np.abs(shown - middle), initial=1e-6))
        low, high = middle - reach, middle + reach
    ticks = None
    if metric in LOGARITHMIC and null is not None:
        steps = np.unique(np.round(np.linspace(low, high, 5)))
        ticks = {"tickvals": steps.tolist(), "ticktext": [f"{2.0**s:g}x" for s in steps]}
    figure = go.Figure(
        go.Heatmap(
            z=shown.astype(np.float32),
            zmin=low,
            zmax=high,
            colorscale=SEQUENTIAL if null is None else DIVERGING,
            hoverinfo="skip",
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": metric}, "thickness": 12, **(ticks or {})},
        )
    )
    layer, head = np.divmod(np.arange(layers * heads), heads)
    figure.add_scatter(
        x=head,
        y=layer,
        mode="markers",
        marker={"symbol": "square", "size": 18, "opacity": 0},
        customdata=np.stack([layer, head, values.ravel()], 1),
        hovertemplate="layer %{customdata[0]:.0f}, head %{customdata[1]:.0f}<br>"
        + metric
        + " %{customdata[2]:.3g}<extra></extra>",
        showlegend=False,
    )
    if chosen is not None:
        y, x = chosen
        figure.add_shape(
            type="rect", x0=x - 0.5, x1=x + 0.5, y0=y - 0.5, y1=y + 0.5,
            line={"color": "#D55E00", "width": 3},
        )  # fmt: skip
    styled(figure, title=title, x="head", y="layer", height=height or min(640, 110 + 26 * layers))
    figure.update_yaxes(range=[layers - 0.5, -0.5], dtick=max(1, layers // 14), showgrid=False)
    figure.update_xaxes(range=[-0.5, heads - 0.5], dtick=max(1, heads // 14), showgrid=False)
    return figure


def profile_tiles(summary: AttentionSummary, *, bins: int = 16, sinks: bool = False) -> go.Figure:
    """One thumbnail per head in a single image: attention over stream time, oldest left, each scaled to its own peak."""
    share = frame_shares(summary, sinks=sinks)
    layers, heads, frames = share.shape
    bins = min(bins, frames)
    edges = (np.arange(bins) * frames) // bins
    binned = np.add.reduceat(share, edges, axis=-1)
    top = binned.max(-1, keepdims=True)
    binned = np.divide(binned, top, out=np.zeros_like(binned), where=top > 0)
    sheet = np.full((layers, heads * (bins + 1)), np.nan, np.float32)
    for head in range(heads):
        sheet[:, head * (bins + 1) : head * (bins + 1) + bins] = binned[:, head]
    figure = go.Figure(
        go.Heatmap(
            z=sheet,
            colorscale=SEQUENTIAL,
            zmin=0,
            zmax=1,
            ygap=3,
            hoverinfo="skip",
            showscale=False,
        )
    )
    layer, head = np.divmod(np.arange(layers * heads), heads)
    figure.add_scatter(
        x=head * (bins + 1) + (bins - 1) / 2,
        y=layer,
        mode="markers",
        marker={"symbol": "square", "size": 18, "opacity": 0},
        customdata=np.stack([layer, head], 1),
        hovertemplate="layer %{customdata[0]}, head %{customdata[1]}<extra></extra>",
        showlegend=False,
    )
    styled(
        figure,
        x="head (within it: stream time, oldest left)",
        y="layer",
        height=min(640, 110 + 26 * layers),
    )
    figure.update_yaxes(range=[layers - 0.5, -0.5], dtick=max(1, layers // 14), showgrid=False)
    figure.update_xaxes(
        tickvals=[h * (bins + 1) + (bins - 1) / 2 for h in range(heads)],
        ticktext=[str(h) for h in range(heads)],
        showgrid=False,
    )
    return figure


def frame_bars(
    mass: npt.NDArray[np.floating],
    time_s: npt.NDArray[np.floating],
    *,
    uniform: npt.NDArray[np.floating] | None = None,
    chosen: int | None = None,
    title: str = "",
    y: str = "attention",
) -> go.Figure:
    """Attention over frames as bars, with what uniform attention would give as a line (the null)."""
    frames = len(mass)
    colours = [ORANGE if f == chosen else "#0072B2" for f in range(frames)]
    figure = go.Figure(
        go.Bar(
            x=np.arange(frames),
            y=np.asarray(mass, np.float32),
            marker={"color": colours},
            customdata=np.stack([np.arange(frames), np.asarray(time_s, float)], 1),
            hovertemplate="frame %{customdata[0]:.0f} at %{customdata[1]:.1f} s: %{y:.4f}<extra></extra>",
            name="attention",
        )
    )
    if uniform is not None:
        figure.add_scatter(
            x=np.arange(frames), y=np.asarray(uniform, np.float32), mode="lines", name="uniform (null)",
            line={"color": GREY, "dash": "dash", "shape": "hvh"}, hoverinfo="skip",
        )  # fmt: skip
    return styled(figure, title=title, x="frame", y=y, height=240)


def role_bars(summary: AttentionSummary, layer: int, head: int) -> go.Figure:
    """Where a head's mass goes by role: system prefix, video, markers, summaries, the question itself."""
    mass = np.asarray(summary.role_mass[layer, head], float)
    names = [Role(r).name.lower() for r in range(len(mass))]
    figure = go.Figure(
        go.Bar(x=mass.astype(np.float32), y=names, orientation="h", marker={"color": GREY})
    )
    figure.update_yaxes(autorange="reversed")
    return styled(figure, x="share of attention", height=190)
