"""The retention strip: layers down, tokens in stream time across, and what each layer did with each token."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from hermes_lab.figures.arrays import Bytes, Ints
from hermes_lab.figures.theme import STATE_COLOURS, STATE_WORDS, rgb, styled
from hermes_lab.recording import TokenState

MAX_COLUMNS = 1024
LEVELS = 31  # steps of the share held in a strip's code
_HELD = (TokenState.KEPT, TokenState.PROTECTED)


@dataclass(frozen=True)
class Strip:
    """A retention strip at drawing size; a column stands for one token, or for neighbours of many.

    Attributes:
        state: the `TokenState` that stands for the column: of a held token where any is held, else what became
            of most of them, [layer, column].
        share: share of the column's tokens that the layer holds, 0 to 1, [layer, column].
        first: index of the column's first token among the tokens drawn, and one past the last, [column + 1].
        frame: frame of the first token of each column, -1 where it has none, [column].
        time_s: its presentation time, NaN where it has none, [column].
    """

    state: npt.NDArray[np.int8]
    share: npt.NDArray[np.float32]
    first: Ints
    frame: Ints
    time_s: npt.NDArray[np.float32]

    @property
    def layers(self) -> int:
        """Layers, one per row."""
        return self.state.shape[0]

    @property
    def columns(self) -> int:
        """Columns of tokens."""
        return self.state.shape[1]

    def codes(self) -> Bytes:
        """One byte per cell for the browser: the state in the low three bits, the share held above, [layer, column]."""
        level = np.ceil(self.share * LEVELS).astype(np.uint8)  # anything held shows
        return ((level << 3) | self.state.astype(np.uint8)).astype(np.uint8)

    def column_of(self, token: int) -> int:
        """The column that shows a token, by its index among the tokens drawn."""
        return int(
            np.clip(np.searchsorted(self.first, token, side="right") - 1, 0, self.columns - 1)
        )


def make_strip(
    state: npt.NDArray[np.int8],
    frame: npt.NDArray[np.integer],
    time_s: npt.NDArray[np.floating],
    *,
    room: int = 0,
    max_columns: int = MAX_COLUMNS,
) -> Strip:
    """Bin token states [layer, token] to a width that a screen can show.

    Args:
        state: `TokenState` of each video token in order of arrival.
        frame, time_s: of each token, [token].
        room: tokens that the whole stream is expected to have; the strip keeps space for those to come.
        max_columns: columns at most.
    """
    layers, tokens = state.shape
    width = max(tokens, room, 1)
    columns = min(width, max_columns)
    edges = (np.arange(columns + 1) * width) // columns
    inside = np.minimum(edges, tokens)
    size = np.maximum(np.diff(edges), 1)

    def count(*states: TokenState) -> npt.NDArray[np.int64]:
        running = np.zeros((layers, tokens + 1), np.int64)
        np.cumsum(np.isin(state, states), axis=1, out=running[:, 1:])
        return running[:, inside[1:]] - running[:, inside[:-1]]

    held, protected = count(*_HELD), count(TokenState.PROTECTED)
    merged, evicted = count(TokenState.MERGED), count(TokenState.EVICTED)
    lost = np.where(merged >= np.maximum(evicted, 1), TokenState.MERGED, TokenState.EVICTED)
    lost = np.where(merged + evicted > 0, lost, TokenState.ABSENT)
    kept = np.where(2 * protected > held, TokenState.PROTECTED, TokenState.KEPT)
    there = inside[:-1] < tokens
    start = np.minimum(inside[:-1], max(tokens - 1, 0))
    return Strip(
        state=np.where(held > 0, kept, lost).astype(np.int8),
        share=(held / size).astype(np.float32),
        first=edges,
        frame=np.where(there, frame[start], -1).astype(np.int64)
        if tokens
        else np.full(columns, -1, np.int64),
        time_s=np.where(there, time_s[start], np.nan).astype(np.float32)
        if tokens
        else np.full(columns, np.nan, np.float32),
    )


def paint(strip: Strip, *, width_px: int = 1000, row_px: int = 14, dark: bool = False) -> Bytes:
    """The strip as an RGB picture [height, width, 3], with texture: merged hatched, protected dotted."""
    gap = 1 if row_px > 4 else 0
    height = strip.layers * row_px
    column = (np.arange(width_px) * strip.columns) // width_px
    row = np.arange(height) // row_px
    state = strip.state[row][:, column]
    share = strip.share[row][:, column]
    palette = np.array([rgb(STATE_COLOURS[dark][s]) for s in TokenState], np.float32)
    picture = palette[state]
    gone = palette[TokenState.EVICTED]
    strength = (0.3 + 0.7 * share)[..., None]
    held = np.isin(state, _HELD)[..., None]
    picture = np.where(held, gone + strength * (picture - gone), picture)
    y, x = np.arange(height)[:, None], np.arange(width_px)[None]
    hatch = (state == TokenState.MERGED) & ((x + y) % 6 < 2)
    dots = (state == TokenState.PROTECTED) & (x % 5 < 2) & (y % 5 < 2)
    picture = np.where((hatch | dots)[..., None], palette[TokenState.ABSENT], picture)
    if gap:
        picture[row_px - 1 :: row_px] = palette[TokenState.ABSENT]
    return picture.round().astype(np.uint8)


def strip_svg(strip: Strip, *, width: int = 1000, row: int = 14, dark: bool = False) -> str:
    """The strip as SVG text: one rectangle for each run of equal cells, patterns as texture, with a legend."""
    colours = STATE_COLOURS[dark]
    ink = "#FFFFFF" if dark else "#1A1A1A"
    left, foot = 40, 44
    height = strip.layers * row
    scale = width / max(strip.columns, 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width} {height + foot}" '
        'font-family="sans-serif" font-size="10">',
        "<title>Retention strip: layers down, stream time across</title>",
        f'<rect width="100%" height="100%" fill="{colours[TokenState.ABSENT]}"/>',
        '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)">'
        f'<rect width="6" height="6" fill="{colours[TokenState.MERGED]}"/>'
        f'<rect width="2" height="6" fill="{colours[TokenState.ABSENT]}"/></pattern>'
        '<pattern id="dots" width="5" height="5" patternUnits="userSpaceOnUse">'
        f'<rect width="5" height="5" fill="{colours[TokenState.PROTECTED]}"/>'
        f'<rect width="2" height="2" fill="{colours[TokenState.ABSENT]}"/></pattern></defs>',
    ]
    fills = {TokenState.MERGED: "url(#hatch)", TokenState.PROTECTED: "url(#dots)"}
    codes = strip.codes()
    for layer in range(strip.layers):
        y = layer * row
        if layer % max(1, strip.layers // 14) == 0:
            parts.append(
                f'<text x="{left - 6}" y="{y + row - 3}" text-anchor="end" fill="{ink}">{layer}</text>'
            )
        starts = np.flatnonzero(np.diff(codes[layer].astype(np.int16), prepend=-1))
        for start, end in zip(starts, [*starts[1:], strip.columns], strict=True):
            state = TokenState(int(strip.state[layer, start]))
            if state is TokenState.ABSENT:
                continue
            fill = fills.get(state, colours[state])
            strength = 0.3 + 0.7 * float(strip.share[layer, start]) if state in _HELD else 1.0
            opacity = "" if strength >= 0.995 else f' fill-opacity="{strength:.2f}"'
            parts.append(
                f'<rect x="{left + start * scale:.2f}" y="{y}" width="{(end - start) * scale:.2f}" '
                f'height="{row - 1}" fill="{fill}"{opacity}/>'
            )
    seen = np.flatnonzero(np.isfinite(strip.time_s))
    for column in seen[:: max(1, len(seen) // 8)]:
        parts.append(
            f'<text x="{left + column * scale:.1f}" y="{height + 14}" fill="{ink}">'
            f"{strip.time_s[column]:.0f} s</text>"
        )
    x = left
    for state in (TokenState.KEPT, TokenState.EVICTED, TokenState.MERGED, TokenState.PROTECTED):
        fill = fills.get(state, colours[state])
        parts.append(
            f'<rect x="{x}" y="{height + 24}" width="14" height="12" fill="{fill}"/>'
            f'<text x="{x + 18}" y="{height + 34}" fill="{ink}">{STATE_WORDS[state]}</text>'
        )
        x += 100
    return "\n".join([*parts, "</svg>"])


def strip_csv(strip: Strip) -> str:
    """The strip's cells in long format: layer, column, first token, frame, time, state, share held."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["layer", "column", "first_token", "tokens", "frame", "time_s", "state", "share_held"]
    )
    sizes = np.diff(strip.first)
    for layer in range(strip.layers):
        for column in range(strip.columns):
            if strip.frame[column] < 0 and strip.state[layer, column] == TokenState.ABSENT:
                continue
            writer.writerow(
                [
                    layer, column, int(strip.first[column]), int(sizes[column]), int(strip.frame[column]),
                    f"{strip.time_s[column]:.3f}", STATE_WORDS[TokenState(int(strip.state[layer, column]))],
                    f"{strip.share[layer, column]:.4f}",
                ]
            )  # fmt: skip
    return out.getvalue()


def retention_figure(strip: Strip, *, dark: bool = False, title: str = "") -> go.Figure:
    """The strip as a plotly heatmap for notebooks and HTML files; live views draw it on a canvas instead."""
    colours = STATE_COLOURS[dark]
    names = [STATE_WORDS[s] for s in TokenState]
    scale: list[list[float | str]] = []
    for n, state in enumerate(TokenState):
        scale += [[n / len(names), colours[state]], [(n + 1) / len(names), colours[state]]]
    x: Sequence[object] = np.arange(strip.columns).tolist()
    shown = np.flatnonzero(np.isfinite(strip.time_s))
    ticks = shown[:: max(1, len(shown) // 10)]
    words = np.array(
        [f"frame {f}, {t:.1f} s" for f, t in zip(strip.frame, strip.time_s, strict=True)]
    )
    figure = go.Figure(
        go.Heatmap(
            z=strip.state.astype(np.uint8),
            x=x,
            y=np.arange(strip.layers),
            zmin=-0.5,
            zmax=len(names) - 0.5,
            colorscale=scale,
            ygap=1,
            colorbar={"tickvals": list(range(len(names))), "ticktext": names, "thickness": 12},
            customdata=np.round(strip.share, 3),
            text=np.broadcast_to(words, strip.state.shape),
            hovertemplate="layer %{y}, %{text}<br>share held %{customdata}<extra></extra>",
        )
    )
    styled(figure, title=title, x="stream time", y="layer", height=90 + 18 * strip.layers)
    figure.update_xaxes(
        tickvals=ticks.tolist(), ticktext=[f"{strip.time_s[c]:.0f} s" for c in ticks]
    )
    figure.update_yaxes(autorange="reversed")
    return figure
