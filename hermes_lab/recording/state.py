"""Which tokens the layers hold and where they stand: a whole state, as it was at some step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief
from hermes_lab.recording.parts import Array, Part

IntArray = npt.NDArray[np.int64]
Shapes = dict[str, list[int]]
"""Heads, tokens and axes of every layer."""

NONE: IntArray = np.empty(0, np.int64)
NONE.flags.writeable = False
LARGEST = int(np.iinfo(np.int32).max)  # of an id


@dataclass(frozen=True, repr=False)
class CacheState(Brief):
    """`Snapshot.held` ([head, token] per layer) and `Snapshot.positions` ([head, axis, token] per layer, or none)."""

    held: tuple[IntArray, ...] = ()
    positions: tuple[IntArray, ...] = ()

    def rows(self, layer: int, heads: int) -> IntArray:
        """Ids of a layer that has `heads` heads from now on, [head, token]: a shared set goes to all of them."""
        rows = self.held[layer] if layer < len(self.held) else NONE[None]
        if len(rows) == heads:
            return rows
        shared = rows[0] if len(rows) == 1 else NONE
        return np.broadcast_to(shared, (heads, len(shared)))

    def pool(self, layer: int, heads: int, new_ids: IntArray) -> IntArray:
        """Ids that a layer holds when `new_ids` have come and nothing has gone, [head, token]."""
        came = np.broadcast_to(new_ids, (heads, len(new_ids)))
        return np.concatenate([self.rows(layer, heads), came], 1)

    def places(self, layer: int, heads: int, axes: int) -> IntArray:
        """Positions of `rows`, [head, axis, token]; without axes none."""
        if not axes or layer >= len(self.positions):
            return np.empty((heads, axes, 0), np.int64)
        places = self.positions[layer]
        if len(places) == heads:
            return places
        return np.broadcast_to(places[:1], (heads, *places.shape[1:]))


def ascending(ids: IntArray) -> bool:
    """Whether ids ascend strictly."""
    return bool((ids[1:] > ids[:-1]).all())


def shrink(values: Array) -> Array:
    """Integers in the smallest of int8 to int64 that holds them all."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.int64)


def shapes_of(state: CacheState) -> Shapes:
    """Heads, tokens and axes of every layer, for a part's record.

    Raises:
        ValueError: positions do not match the ids beside them, or ids are not ids.
    """
    _check(state)
    return {
        "heads": [len(rows) for rows in state.held],
        "tokens": [rows.shape[-1] for rows in state.held],
        "axes": [places.shape[1] for places in state.positions],
    }


def _check(state: CacheState) -> None:
    """Refuse what is no state.

    Raises:
        ValueError: naming the layer.
    """
    for rows in state.held:
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) <= LARGEST:
            raise ValueError(
                f"token ids must lie in 0 ... {LARGEST}, got {rows.min()} ... {rows.max()}"
            )
        if not all(ascending(np.sort(row)) for row in rows):
            raise ValueError("a token id stands twice in one row")
    if not state.positions:
        return
    if len(state.positions) != len(state.held):
        raise ValueError(
            f"there are positions of {len(state.positions)} layers, ids of {len(state.held)}"
        )
    for layer, (rows, places) in enumerate(zip(state.held, state.positions, strict=True)):
        if len(places) != len(rows) or places.shape[-1] != rows.shape[-1]:
            raise ValueError(
                f"positions {places.shape} of layer {layer} do not match its ids {rows.shape}"
            )


When = Literal["before", "after"]


def encode_state(state: CacheState, when: When) -> tuple[Shapes, dict[str, Array]]:
    """A whole state, from which changes can be followed without reading what came before: shapes and arrays."""
    held = np.concatenate([NONE, *(rows.ravel() for rows in state.held)])
    places = np.concatenate([NONE, *(p.ravel() for p in state.positions)])
    return shapes_of(state), {
        f"{when}.held": held.astype(np.int32),
        f"{when}.positions": shrink(places),
    }


def decode_state(shapes: Mapping[str, Any], part: Part, when: When) -> CacheState:
    """Read what `encode_state` wrote into a step part."""
    ids, values = part.read(f"{when}.held", f"{when}.positions")
    rows = list(zip(shapes["heads"], shapes["tokens"], strict=True))
    with_axes = [
        (heads, axes, tokens) for (heads, tokens), axes in zip(rows, shapes["axes"], strict=False)
    ]
    return CacheState(_cut(ids, rows), _cut(values, with_axes))


def _cut(flat: Array, shapes: Sequence[tuple[int, ...]]) -> tuple[IntArray, ...]:
    edges = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    return tuple(
        flat[edges[i] : edges[i + 1]].reshape(shape).astype(np.int64)
        for i, shape in enumerate(shapes)
    )
