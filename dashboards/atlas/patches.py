"""What one head of the attention atlas sees inside of frames."""

from __future__ import annotations

import numpy as np
import streamlit as st

from dashboards.parts.attention_rows import row_code, row_of, where_rows_are
from dashboards.parts.page_parts import picture_offer
from hermes_lab import figures
from hermes_lab.errors import RecordingError
from hermes_lab.recording import Recording
from hermes_lab.snapshot import AttentionSummary


def patches(
    recording: Recording, summary: AttentionSummary, opening: str, layer: int, head: int
) -> None:
    """The patches of the chosen frames, where the recording kept the rows of this layer; `opening` is Python that gets `summary` and `recording`."""
    if layer not in summary.rows:
        st.caption(f"Patches: {where_rows_are(summary)}")
        return
    mine, weight = row_of(summary, layer, head)
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
            f"{row_code(layer, head)}\n"
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
