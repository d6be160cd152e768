"""A snapshot as a notebook shows it: one line of words, and who is still held in each layer. Plain HTML and SVG."""

from __future__ import annotations

import html
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from hermes_lab.snapshot import Snapshot

COLUMNS = 80
STRENGTHS = 5  # steps of opacity from a trace to everything
WIDTH, ROW, LEFT = 640, 9, 26
MOST_ROWS = 32  # deeper models show groups of neighbouring layers


def picture(snapshot: Snapshot) -> str:
    """The headline, the strip and the notes."""
    share = held_share(snapshot)
    notes = "".join(f"<div>Note: {html.escape(note)}</div>" for note in snapshot.notes)
    return (
        f'<div style="font-family:sans-serif;font-size:12px">{html.escape(snapshot.headline())}'
        f"{_strip(share)}{notes}</div>"
    )


def held_share(snapshot: Snapshot) -> npt.NDArray[np.float64]:
    """Share of the tokens that came which each layer still holds, in the order in which they came, 0 ... 1.

    Ids are given in the order of arrival, so this needs no token table. Returns [layer, column]: the mean over
    heads, in at most `COLUMNS` columns.
    """
    newest = max(
        (int(ids.max(initial=-1)) for ids in (snapshot.new_ids, *snapshot.held)), default=-1
    )
    oldest = min((int(ids.min(initial=newest)) for ids in snapshot.held), default=0)
    # ids before the first video token belong to the system prompt
    first = max(0, min(oldest, newest + 1 - snapshot.tokens_seen))
    count = max(newest + 1 - first, 1)
    columns = min(COLUMNS, count)
    came = np.bincount(np.arange(count) * columns // count, minlength=columns)
    share = np.zeros((len(snapshot.held), columns))
    for layer, ids in enumerate(snapshot.held):
        column = (ids.ravel() - first) * columns // count
        share[layer] = np.bincount(column, minlength=columns) / came / max(len(ids), 1)
    return share


def _strip(share: npt.NDArray[np.float64]) -> str:
    """One path for each strength: a page of rectangles would be ten times as long."""
    layers, columns = share.shape
    group = max(1, -(-layers // MOST_ROWS))
    starts = list(range(0, layers, group))
    cell = (WIDTH - LEFT) / max(columns, 1)
    paths: defaultdict[int, list[str]] = defaultdict(list)
    labels: list[str] = []
    for row, start in enumerate(starts):
        last = min(start + group, layers) - 1
        strength = np.ceil(share[start : last + 1].mean(0) * STRENGTHS - 1e-9).astype(int)
        for first, end in _runs(strength):
            x, width = LEFT + first * cell, (end - first) * cell
            paths[int(strength[first])].append(
                f"M{x:.1f} {row * ROW}h{width:.1f}v{ROW - 1}h-{width:.1f}z"
            )
        if row % max(1, len(starts) // 8) == 0:
            labels.append(
                f'<text x="{LEFT - 4}" y="{row * ROW + 8}" text-anchor="end">{start}</text>'
            )
    drawn = "".join(
        f'<path fill="#2a7fb8" fill-opacity="{strength / STRENGTHS:.1f}" d="{"".join(path)}"/>'
        for strength, path in sorted(paths.items())
        if strength
    )
    height = max(len(starts), 1) * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height + 12}" width="{WIDTH}" '
        'style="display:block;max-width:100%" role="img" font-family="sans-serif" font-size="8" '
        'fill="currentColor"><title>What each layer still holds</title>'
        f'<rect x="{LEFT}" width="{WIDTH - LEFT}" height="{height}" fill-opacity="0.08"/>{drawn}'
        f'{"".join(labels)}<text x="{LEFT}" y="{height + 10}">layers down, tokens from the first to come to '
        "the newest across; blank: forgotten</text></svg>"
    )


def _runs(values: npt.NDArray[np.int_]) -> list[tuple[int, int]]:
    """Stretches of equal values as (first, end)."""
    starts = np.flatnonzero(np.diff(values, prepend=-1)).tolist()
    return list(zip(starts, [*starts[1:], len(values)], strict=True))
