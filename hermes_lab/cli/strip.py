"""The retention strip in a terminal: layers down, stream time across, shaded by how much is still held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if (
    TYPE_CHECKING
):  # numpy is imported on use, so that `hermes-lab doctor` can say that it is missing
    import numpy as np
    import numpy.typing as npt

SHADES = " ░▒▓█"  # nothing held ... everything held
MAX_ROWS = 14


def held_share(
    held: Sequence[npt.NDArray[np.int64]],
    frame: npt.NDArray[np.int64],
    frames_seen: int,
    columns: int,
) -> npt.NDArray[np.float64]:
    """Share of the frames' tokens that each layer still holds, binned over stream time.

    Args:
        held: per layer, global ids held, [head, token].
        frame: frame of every global id, -1 where it has none.
        frames_seen: frames so far.
        columns: bins at most.

    Returns:
        [layer, bin], mean over heads; a bin that received no token is 0.
    """
    import numpy as np

    bins = min(columns, max(frames_seen, 1))
    of_frame = (np.arange(max(frames_seen, 1)) * bins) // max(frames_seen, 1)
    entered = frame[(frame >= 0) & (frame < frames_seen)]
    total = np.bincount(of_frame[entered], minlength=bins).astype(float)
    share = np.zeros((len(held), bins))
    for layer, ids in enumerate(held):
        frames = frame[ids.ravel()]
        frames = frames[frames >= 0]
        count = np.bincount(of_frame[frames], minlength=bins) / max(ids.shape[0], 1)
        share[layer] = np.divide(count, total, out=np.zeros(bins), where=total > 0)
    return share


def render(share: npt.NDArray[np.float64], max_rows: int = MAX_ROWS) -> list[str]:
    """Lines of text, one per layer (or group of neighbouring layers where there are many)."""
    import numpy as np

    layers = share.shape[0]
    group = -(-layers // max_rows)
    lines: list[str] = []
    for first in range(0, layers, group):
        last = min(first + group, layers) - 1
        mean = share[first : last + 1].mean(0)
        # anything held at all must be seen, so that only true zeros are blank
        level = np.where(mean > 0, np.maximum(np.rint(mean * (len(SHADES) - 1)), 1), 0)
        label = f"{first}" if first == last else f"{first}-{last}"
        lines.append(f"{label:>5} {''.join(SHADES[int(v)] for v in np.minimum(level, 4))}")
    return lines
