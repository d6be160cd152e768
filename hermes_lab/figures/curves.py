"""Curves over a stream: memory, step times, answers' latency, and one token's score in its compressions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from hermes_lab.figures.theme import DASHES, GREY, SERIES, VERMILION, styled
from hermes_lab.recording import Trial

Numbers = npt.NDArray[np.floating] | npt.NDArray[np.integer] | Sequence[float]
Curve = tuple[Numbers, Numbers]

PARTS = ("encode_s", "prefill_s", "probe_s", "decide_s", "record_s")


def memory_curves(curves: Mapping[str, Curve], *, title: str = "") -> go.Figure:
    """Bytes of the KV cache over stream time, one line per run: name -> (time_s, cache_bytes)."""
    return _lines(
        {n: (t, np.asarray(b, float) / 2**20) for n, (t, b) in curves.items()},
        title=title,
        y="KV cache (MiB)",
    )


def ttft_curves(curves: Mapping[str, Curve], *, title: str = "") -> go.Figure:
    """Milliseconds to the first token of each answer over stream time: name -> (time_s, ttft_s)."""
    figure = _lines(
        {n: (t, 1000 * np.asarray(s, float)) for n, (t, s) in curves.items()},
        title=title,
        y="TTFT (ms)",
    )
    return figure.update_traces(mode="lines+markers")


def step_times(
    time_s: Numbers, timings: Mapping[str, npt.NDArray[np.floating]], *, title: str = ""
) -> go.Figure:
    """Milliseconds of each feed step by part (encode, prefill, probe, decide), stacked."""
    figure = go.Figure()
    for part, colour in zip(PARTS, SERIES, strict=False):
        if part in timings:
            figure.add_bar(
                x=np.asarray(time_s, float),
                y=1000 * np.asarray(timings[part], float),
                name=part.removesuffix("_s"),
                marker={"color": colour},
            )
    figure.update_layout(barmode="stack")
    return styled(figure, title=title, x="stream time (s)", y="step (ms)", height=260)


def trial_curves(trials: Sequence[Trial], *, title: str = "") -> go.Figure:
    """One token's score and its named terms at every compression that ranked it; a cross marks where it lost."""
    figure = go.Figure()
    heads = sorted({t.head for t in trials})
    for head in heads:
        mine = [t for t in trials if t.head == head]
        label = "" if len(heads) == 1 else f" (KV head {head})"
        figure.add_scatter(
            x=[t.step for t in mine],
            y=[t.score for t in mine],
            name=f"score{label}",
            mode="lines+markers",
            line={"color": SERIES[0], "width": 3},
            marker={"symbol": ["circle" if t.kept else "x" for t in mine], "size": 9},
            customdata=[[t.rank, t.candidates, t.budget_tokens] for t in mine],
            hovertemplate="step %{x}: score %{y:.4g}<br>rank %{customdata[0]} of %{customdata[1]}, "
            "budget %{customdata[2]}<extra></extra>",
        )
        if head == heads[0]:
            for n, term in enumerate(dict.fromkeys(k for t in mine for k in t.terms), 1):
                figure.add_scatter(
                    x=[t.step for t in mine],
                    y=[t.terms.get(term, np.nan) for t in mine],
                    name=term,
                    mode="lines+markers",
                    line={"color": SERIES[n % len(SERIES)], "dash": DASHES[n % len(DASHES)]},
                    marker={"size": 5},
                )
    return styled(figure, title=title, x="feed step", y="score and its terms", height=300)


def rank_curve(trials: Sequence[Trial], *, title: str = "") -> go.Figure:
    """One token's rank at every compression beside the rank that still survives (its layer's budget)."""
    figure = go.Figure()
    steps = [t.step for t in trials]
    figure.add_scatter(
        x=steps, y=[t.rank for t in trials], name="rank", mode="lines+markers",
        line={"color": SERIES[0]},
        marker={"symbol": ["circle" if t.kept else "x" for t in trials], "size": 9},
    )  # fmt: skip
    figure.add_scatter(
        x=steps, y=[min(t.budget_tokens, t.candidates) for t in trials], name="last rank that fits",
        mode="lines", line={"color": VERMILION, "dash": "dash"},
    )  # fmt: skip
    figure.add_scatter(
        x=steps, y=[t.candidates for t in trials], name="candidates", mode="lines",
        line={"color": GREY, "dash": "dot"},
    )  # fmt: skip
    styled(figure, title=title, x="feed step", y="rank (1 is best)", height=260)
    return figure.update_yaxes(autorange="reversed")


def _lines(curves: Mapping[str, Curve], *, title: str, y: str) -> go.Figure:
    figure = go.Figure()
    for n, (name, (x, values)) in enumerate(curves.items()):
        figure.add_scatter(
            x=np.asarray(x, float),
            y=np.asarray(values, float),
            name=name,
            mode="lines",
            line={"color": SERIES[n % len(SERIES)], "dash": DASHES[n % len(DASHES)], "width": 2},
        )
    return styled(figure, title=title, x="stream time (s)", y=y, height=280)
