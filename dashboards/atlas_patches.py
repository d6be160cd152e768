"""What one head of the attention atlas sees inside of frames."""

from __future__ import annotations

import numpy as np
import streamlit as st

from dashboards.furniture import picture_offer
from hermes_lab import figures
from hermes_lab.errors import RecordingError
from hermes_lab.recording import Recording
from hermes_lab.snapshot import AttentionSummary


def patches(
    recording: Recording, summary: AttentionSummary, opening: str, layer: int, head: int
) -> None:
    """The patches of the chosen frames, where the recording kept the rows of this layer; `opening` is Python that gets `summary` and `recording`."""
    rows = summary.rows.get(layer)
    if rows is None:
        kept = ", ".join(map(str, sorted(summary.rows)))
        st.caption(
            f"Patches: full rows of this reading are recorded in layers {kept}."
            if kept
            else "Patches: this reading keeps no full rows; record with level rows."
        )
        return
    ids = summary.row_ids[layer]
    mine = ids[min(head * len(ids) // rows.shape[0], len(ids) - 1)]
    weight = rows[head].mean(0)
    table = recording.tokens
    known = mine >= 0
    frame = np.where(known, table.column("frame")[np.maximum(mine, 0)], -1)
    grid = recording.manifest.model.grid
    mass = np.bincount(frame[frame >= 0], weights=weight[frame >= 0])
    best = sorted(int(f) for f in np.argsort(-mass, kind="stable")[:6] if mass[f] > 0)
    tiles: list[np.ndarray] = []
    captions: list[str] = []
    shown: list[tuple[int, int, int, float]] = []
    for f in best:
        picture = picture_of(recording, f)
        if picture is None:
            continue
        heat = np.zeros(grid, np.float32)
        here = np.flatnonzero((frame == f) & (table.column("row")[np.maximum(mine, 0)] >= 0))
        heat[table.column("row")[mine[here]], table.column("col")[mine[here]]] = weight[here]
        shown += [(f, y, x, float(heat[y, x])) for y, x in np.ndindex(*heat.shape)]
        tiles.append(figures.heat(picture, heat, height_px=132))
        captions.append(f"frame {f}: {mass[f]:.1%}")
    if tiles:
        st.image(
            tiles,
            caption=captions,
            width=132,
            alt=[f"Attention on the patches of {c}" for c in captions],
        )
        said = f"Patches of the frames that layer {layer}, head {head} looks at most; bright is most within each frame."
        st.caption(said)
        picture_offer(
            lambda: np.concatenate(tiles, 1), key="atlas-patches-files", name=f"patches-{layer}-{head}", alt=said,
            rows=(("frame", "row", "col", "weight"), shown),
            code=f"import numpy as np\nfrom PIL import Image\n\n{opening}"
            f"rows, ids = summary.rows[{layer}], summary.row_ids[{layer}]\n"
            f"mine = ids[min({head} * len(ids) // rows.shape[0], len(ids) - 1)]\nweight = rows[{head}].mean(0)\n"
            "frame, row, col = (recording.tokens.column(c)[np.maximum(mine, 0)] for c in ('frame', 'row', 'col'))\n"
            f"tiles = []\nfor f in {sorted({f for f, *_ in shown})}:\n"
            "    here = (mine >= 0) & (frame == f) & (row >= 0)\n"
            "    heat = np.zeros(recording.manifest.model.grid, np.float32)\n"
            "    heat[row[here], col[here]] = weight[here]\n"
            "    tiles.append(figures.heat(recording.thumbnail(f), heat, height_px=132))\n"
            "Image.fromarray(np.concatenate(tiles, 1)).show()",
        )  # fmt: skip


def picture_of(recording: Recording, frame: int) -> np.ndarray | None:
    """The small picture of a frame; None where none was recorded."""
    try:
        return recording.thumbnail(frame)
    except RecordingError:
        return None
