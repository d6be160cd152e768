"""Rows of integers that mostly grow by little: the first number of each row, and by how much the others differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hermes_lab.recording.parts import Array
from hermes_lab.recording.state import NONE, IntArray, shrink

_MORE = 255  # in steps of one byte: add this and go on reading
_MOST = 1 << 28  # numbers; damage may claim any


def pack_rows(blocks: Sequence[IntArray]) -> tuple[Array, Array]:
    """Blocks of rows, [row, number] each, as (first numbers of all rows; steps).

    Steps are those of the first block where every block has the same, one number where all are equal, one byte
    each where none is negative (255 stands for "and more"), else signed.
    """
    filled = [block for block in blocks if block.size]
    if not filled:
        return np.empty(0, np.int8), np.empty(0, np.int8)
    firsts = np.concatenate([block[:, 0] for block in filled])
    parts = [np.diff(block) for block in filled]
    if len(filled) == len(blocks) and all(np.array_equal(parts[0], p) for p in parts[1:]):
        parts = parts[:1]
    steps = np.concatenate([part.ravel() for part in parts])
    if len(steps) and (steps == steps[0]).all():
        return shrink(firsts), shrink(steps[:1])
    if len(steps) and int(steps.min()) >= 0 and int(steps.sum()) < _MORE * len(steps):
        return shrink(firsts), _to_bytes(steps)
    return shrink(firsts), shrink(steps)


def unpack_rows(
    firsts: Array, steps: Array, shapes: Sequence[tuple[int, int]]
) -> tuple[IntArray, ...]:
    """What `pack_rows` was given; `shapes` are those of its blocks.

    Raises:
        ValueError: the numbers do not make rows of these shapes.
    """
    sizes = [rows * max(length - 1, 0) for rows, length in shapes]
    if sum(sizes) > _MOST:
        raise ValueError(f"{sum(sizes)} numbers are more than there can be")
    wide = _from_bytes(steps) if steps.dtype == np.uint8 else steps.astype(np.int64)
    if len(wide) != sum(sizes):
        if len(wide) == 1:
            wide = np.broadcast_to(wide, sum(sizes))
        elif len(set(shapes)) == 1 and len(wide) == sizes[0]:
            wide = np.tile(wide, len(shapes))
    filled = sum(rows for rows, length in shapes if length)
    if len(wide) != sum(sizes) or len(firsts) != filled:
        raise ValueError(f"{len(firsts)} rows of {len(wide)} steps do not fit")
    found: list[IntArray] = []
    row = step = 0
    for (rows, length), size in zip(shapes, sizes, strict=True):
        block = np.empty((rows, length), np.int64)
        if block.size:
            block[:, 0] = firsts[row : row + rows]
            block[:, 1:] = wide[step : step + size].reshape(rows, length - 1)
            row, step = row + rows, step + size
        found.append(np.cumsum(block, 1))
    return tuple(found)


def _to_bytes(steps: IntArray) -> Array:
    more, rest = np.divmod(steps, _MORE)
    if not more.any():
        return rest.astype(np.uint8)
    written = np.full(len(steps) + int(more.sum()), _MORE, np.uint8)
    written[np.cumsum(more + 1) - 1] = rest
    return written


def _from_bytes(written: Array) -> IntArray:
    reached = np.cumsum(written, dtype=np.int64)[written != _MORE]
    return np.diff(reached, prepend=NONE.dtype.type(0))
