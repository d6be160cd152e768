"""Which tokens the layers hold and where they stand, written step by step as differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief
from hermes_lab.recording.idsets import (
    NONE,
    IntArray,
    Packed,
    PackedRows,
    RowDiff,
    decode_row,
    reorder,
    union,
)
from hermes_lab.recording.matching import Block, Match, blocks, join
from hermes_lab.recording.parts import Array, Part

_NOWHERE = int(np.iinfo(np.int64).min)  # no token stands so far back


@dataclass(frozen=True, repr=False)
class CacheState(Brief):
    """`Snapshot.held` ([head, token] a layer) and `Snapshot.positions` ([head, axis, token] a layer, or none)."""

    held: tuple[IntArray, ...] = ()
    positions: tuple[IntArray, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of a checkpoint of this state, four a number."""
        return 4 * sum(array.size for array in (*self.held, *self.positions))

    def rows(self, layer: int, heads: int) -> IntArray:
        """Ids of a layer that has `heads` heads from now on, [head, token]: a shared set goes to all of them."""
        rows = self.held[layer] if layer < len(self.held) else NONE[None]
        if len(rows) == heads:
            return rows
        shared = rows[0] if len(rows) == 1 else NONE
        return np.broadcast_to(shared, (heads, len(shared)))

    def stood(self, layer: int, heads: int, axes: int) -> IntArray:
        """Positions of the ids of `rows`, [head, axis, token], `_NOWHERE` if it had other heads or axes."""
        if layer < len(self.positions) and self.positions[layer].shape[:2] == (heads, axes):
            return self.positions[layer]
        return np.full((heads, axes, self.rows(layer, heads).shape[1]), _NOWHERE)

    def pool(self, layer: int, head: int, heads: int, new_ids: IntArray) -> IntArray:
        """Ids that a head could hold after `new_ids` arrived, sorted."""
        return union(self.rows(layer, heads)[head], new_ids)


def shrink(values: Array) -> Array:
    """Integers in the smallest of int16, int32 and int64 that holds them all."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return values.astype(dtype)
    return values.astype(np.int64)


def encode_state(
    before: CacheState, after: CacheState, new_ids: IntArray
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Describe `after` by its differences from `before`: a JSON record and arrays.

    Raises:
        ValueError: positions do not match the ids beside them, or ids are not ids.
    """
    _check(after)
    heads = [len(rows) for rows in after.held]
    rows = [row for rows in after.held for row in rows]
    earlier = [row for n, count in enumerate(heads) for row in before.rows(n, count)]
    places = [row for rows in after.positions for row in rows]
    stood = [row for n, p in enumerate(after.positions) for row in before.stood(n, *p.shape[:2])]
    arrived = union(NONE, new_ids)
    kinds = [len(row) for row in places] or [0] * len(rows)
    held: list[Packed] = []
    moved: list[Packed] = []
    whole: list[Array] = [np.empty(0, np.bool_)]
    values: list[IntArray] = [NONE]
    for block in blocks(rows, earlier, arrived, kinds):
        held.append(block.match.pack())
        if places:
            edits, written_whole, written = _moves(
                block, places[block.where], stood[block.where], arrived
            )
            moved.append(edits)
            whole.append(written_whole)
            values.append(written)
    record = {
        "heads": heads,
        "tokens": [rows.shape[-1] for rows in after.held],
        "axes": [places.shape[1] for places in after.positions],
    }
    tensors: dict[str, Array] = {}
    tensors["held.counts"], tensors["held.ids"] = join(held)
    if after.positions:
        tensors["positions.counts"], tensors["positions.ids"] = join(moved)
        tensors["positions.whole"] = np.concatenate(whole).astype(np.uint8)
        tensors["positions.values"] = shrink(np.concatenate(values))
    return record, tensors


def _check(state: CacheState) -> None:
    """Refuse positions that do not match the ids beside them.

    Raises:
        ValueError: naming the layer.
    """
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


def _moves(
    block: Block, places: Sequence[IntArray], stood: Sequence[IntArray], arrived: IntArray
) -> tuple[Packed, npt.NDArray[np.bool_], IntArray]:
    """Which tokens of a block are new or moved, which rows are written whole instead, and the positions.

    `places` and `stood`: positions of each row after and before the step, [axis, token];
    `arrived`: ids that came in it, sorted.
    """
    match = block.match
    to = np.concatenate(places, 1)
    nowhere = np.full((len(to), len(arrived)), _NOWHERE)
    came_from = np.concatenate([piece for row in stood for piece in (row, nowhere)], 1)
    if block.source is not None:
        came_from = came_from.take(block.source, 1)
    # a token that was not found stands at -1, so one column more
    came_from = np.concatenate([came_from, np.full((len(to), 1), _NOWHERE)], 1)
    changed = (came_from.take(match.found, 1) != to).any(0)
    count = np.bincount(match.row.take(np.flatnonzero(changed)), minlength=match.rows)
    whole = 2 * count > block.lengths
    in_whole = whole.repeat(block.lengths)
    singly = match.keys.take(np.flatnonzero(changed & ~in_whole))
    pool = (np.flatnonzero(~whole)[:, None] << match.bits) + (arrived - match.lowest)
    moved = Match(match.rows, match.bits, match.lowest, singly, pool.ravel())
    written = np.flatnonzero(changed | in_whole)
    by_row = np.argsort(np.tile(match.row.take(written), len(to)), kind="stable")
    return moved.pack(), whole, to.take(written, 1).ravel().take(by_row)


def encode_checkpoint(state: CacheState) -> tuple[dict[str, Any], dict[str, Array]]:
    """A whole state, from which differences can be followed without reading what came before."""
    record = {
        "heads": [len(rows) for rows in state.held],
        "tokens": [rows.shape[-1] for rows in state.held],
        "axes": [places.shape[1] for places in state.positions],
    }
    held = np.concatenate([NONE, *(rows.ravel() for rows in state.held)])
    places = np.concatenate([NONE, *(p.ravel() for p in state.positions)])
    return record, {"before.held": held.astype(np.int32), "before.positions": shrink(places)}


def decode_checkpoint(part: Part) -> CacheState:
    """Read what `encode_checkpoint` wrote into a step part under the key "before"."""
    record = part.record["before"]
    ids, values = part.read("before.held", "before.positions")
    shapes = list(zip(record["heads"], record["tokens"], strict=True))
    held = _cut(ids, shapes)
    with_axes = [
        (heads, axes, tokens) for (heads, tokens), axes in zip(shapes, record["axes"], strict=False)
    ]
    return CacheState(held, _cut(values, with_axes))


def _cut(flat: Array, shapes: Sequence[tuple[int, ...]]) -> tuple[IntArray, ...]:
    edges = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    return tuple(
        flat[edges[i] : edges[i + 1]].reshape(shape).astype(np.int64)
        for i, shape in enumerate(shapes)
    )


@dataclass(frozen=True, repr=False)
class StepDiff(Brief):
    """The differences of one step, read from its part.

    Attributes:
        new_ids: ids that arrived, in their order.
        heads, tokens, axes: per layer, of `held` and `positions` after the step.
    """

    new_ids: IntArray
    heads: tuple[int, ...]
    tokens: tuple[int, ...]
    axes: tuple[int, ...]
    _held: PackedRows
    _moved: PackedRows
    _whole: Array
    _values: Array

    @classmethod
    def read(cls, record: Mapping[str, Any], part: Part, *, positions: bool = True) -> StepDiff:
        """Read what `encode_state` wrote, or only its ids.

        Raises:
            ValueError: the ids contradict the record.
        """
        names = ("positions.counts", "positions.ids", "positions.whole", "positions.values")
        new, counts, ids, moved_counts, moved_ids, whole, values = part.read(
            "new_ids", "held.counts", "held.ids", *(names if positions else ("",) * 4)
        )
        if len(counts) != sum(record["heads"]):
            raise ValueError(
                f"{sum(record['heads'])} rows of ids were recorded, {len(counts)} are there"
            )
        return cls(
            new.astype(np.int64),
            tuple(record["heads"]),
            tuple(record["tokens"]),
            tuple(record["axes"]),
            PackedRows(counts, ids),
            PackedRows(moved_counts, moved_ids),
            whole,
            values,
        )

    @cached_property
    def arrived(self) -> IntArray:
        """`new_ids`, sorted."""
        return union(NONE, self.new_ids)

    @cached_property
    def _first_rows(self) -> list[int]:
        return np.cumsum([0, *self.heads]).tolist()

    @cached_property
    def _value_starts(self) -> list[int]:
        counts = self._moved.counts
        moved = len(self.arrived) - counts[:, 0] + counts[:, 1]
        moved = np.where(self._whole, np.repeat(self.tokens, self.heads), moved)
        return np.cumsum([0, *(moved * np.repeat(self.axes, self.heads)).tolist()]).tolist()

    def held(self, layer: int, head: int) -> RowDiff:
        """One head's ids against `CacheState.pool`."""
        return self._held[self._first_rows[layer] + head]

    def whole(self, layer: int, head: int) -> bool:
        """Whether every position of a head was written, in the order of its ids."""
        return bool(self._whole[self._first_rows[layer] + head])

    def moved(self, layer: int, head: int, row: IntArray) -> tuple[IntArray, IntArray]:
        """Ids whose positions changed, [token], and the positions, [axis, token]; `row`: ids after the step."""
        index = self._first_rows[layer] + head
        ids = row if self.whole(layer, head) else decode_row(self._moved[index], self.arrived)
        start, end = self._value_starts[index : index + 2]
        values = self._values[start:end].astype(np.int64)
        return ids, values.reshape(self.axes[layer], len(ids))


def follow(state: CacheState, diffs: Sequence[StepDiff], *, positions: bool = True) -> CacheState:
    """The state after some steps, from the state before the first of them."""
    if not diffs:
        return state
    layers = [_follow_layer(state, diffs, n, positions) for n in range(len(diffs[-1].heads))]
    held = tuple(rows for rows, _ in layers)
    return CacheState(held, tuple(places for _, places in layers if places is not None))


def _follow_layer(
    state: CacheState, diffs: Sequence[StepDiff], layer: int, positions: bool
) -> tuple[IntArray, IntArray | None]:
    """One layer of `follow`, in runs of steps that need nothing of the steps between them."""
    held = state.held[layer] if layer < len(state.held) else NONE[None]
    places = state.positions[layer] if positions and layer < len(state.positions) else None
    start = 0
    for end in range(1, len(diffs) + 1):
        if end < len(diffs) and not _breaks(diffs[end - 1], diffs[end], layer, positions):
            continue
        run = diffs[start:end]
        heads, axes = run[0].heads[layer], run[0].axes[layer] if positions and run[0].axes else 0
        if len(held) != heads:
            held = held.repeat(heads, 0) if len(held) == 1 else np.empty((heads, 0), np.int64)
            places = None
        if places is not None and places.shape[1] != axes:
            places = None
        rows = [_follow_row(held[head], run, layer, head) for head in range(heads)]
        if axes:
            places = np.stack(
                [
                    _follow_places(
                        (NONE, np.empty((axes, 0), np.int64))
                        if places is None
                        else (held[head], places[head]),
                        run,
                        layer,
                        head,
                        row,
                    )
                    for head, row in enumerate(rows)
                ]
            )
        held, start = np.stack(rows), end
    return held, places if positions and diffs[-1].axes else None


def _breaks(diff: StepDiff, following: StepDiff, layer: int, positions: bool) -> bool:
    """Whether a run of steps must end here: the shape changes, or all positions were written in their order."""
    if diff.heads[layer] != following.heads[layer] or diff.axes != following.axes:
        return True
    written = positions and bool(diff.axes)
    return written and any(diff.whole(layer, head) for head in range(diff.heads[layer]))


def _follow_row(row: IntArray, run: Sequence[StepDiff], layer: int, head: int) -> IntArray:
    """Ids of one head after a run of steps."""
    edits = [diff.held(layer, head) for diff in run]
    pieces = [row]
    for diff, edit in zip(run, edits, strict=True):
        pieces += [diff.arrived, edit.missing, edit.extra]
    held = np.ones(len(pieces), np.bool_)
    held[2::3] = False
    ids, latest = _latest(np.concatenate(pieces))
    alive = np.repeat(held, [len(piece) for piece in pieces])[latest]
    return reorder(ids[alive], edits[-1])


def _follow_places(
    before: tuple[IntArray, IntArray],
    run: Sequence[StepDiff],
    layer: int,
    head: int,
    row: IntArray,
) -> IntArray:
    """Positions of one head after a run of steps, [axis, token], for the ids `row` that it then holds."""
    moves = [before, *(diff.moved(layer, head, row) for diff in run)]
    ids, latest = _latest(np.concatenate([ids for ids, _ in moves]))
    values = np.concatenate([values for _, values in moves], 1)[:, latest]
    return values[:, np.searchsorted(ids, row)]


def _latest(ids: IntArray) -> tuple[IntArray, IntArray]:
    """The distinct ids, sorted, and where each of them stands last."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    is_last = np.ones(len(ids), np.bool_)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    return ordered[is_last], order[is_last]
