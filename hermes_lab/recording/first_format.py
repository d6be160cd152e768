"""Steps of recording format 1, which nothing writes any more: a state as its difference from the state before.

A row of ids was stored as what sets it apart from its pool, the ids that were held before and those that arrived:
(missing, extra, displaced), where `missing` are ids of the pool that are not in the row, `extra` ids of the row that
are not in the pool, and `displaced` the ids that stand before a smaller one, with the places where they stand. All
else is in ascending order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief
from hermes_lab.frozen import Frozen
from hermes_lab.recording.parts import Array, Part
from hermes_lab.recording.state import NONE, CacheState, IntArray, ascending
from hermes_lab.snapshot import LayerDecision, MergeRecord


@dataclass(frozen=True, repr=False)
class RowDiff(Brief):
    """One row against its pool; see the module docstring."""

    missing: IntArray = field(default_factory=lambda: NONE)
    extra: IntArray = field(default_factory=lambda: NONE)
    displaced: IntArray = field(default_factory=lambda: NONE)
    places: IntArray = field(default_factory=lambda: NONE)


def union(first: IntArray, second: IntArray) -> IntArray:
    """Sorted union of two rows; cheap where the second follows the first, as arriving tokens do."""
    if not len(second):
        joined = first
    elif not len(first):
        joined = second
    else:
        joined = np.concatenate([first, second])
    return joined if ascending(joined) else np.unique(joined)


def decode_row(diff: RowDiff, pool: IntArray) -> IntArray:
    """The row that was described, in its order; `pool` must be the same."""
    row = pool
    if len(diff.missing):
        held = np.ones(len(pool), np.bool_)
        held[np.searchsorted(pool, diff.missing)] = False
        row = pool[held]
    if len(diff.extra):
        row = np.sort(np.concatenate([row, diff.extra]))
    return reorder(row, diff)


def reorder(row: IntArray, diff: RowDiff) -> IntArray:
    """Put the displaced ids of a sorted row back to where they stood."""
    if not len(diff.displaced):
        return row
    stays = np.ones(len(row), np.bool_)
    stays[np.searchsorted(row, diff.displaced)] = False
    settled = np.ones(len(row), np.bool_)
    settled[diff.places] = False
    ordered = np.empty_like(row)
    ordered[diff.places] = diff.displaced
    ordered[settled] = row[stays]
    return ordered


class PackedRows:
    """Reads single rows out of `Packed`.

    Raises:
        ValueError: counts and ids contradict each other.
    """

    def __init__(self, counts: npt.NDArray[np.int32], ids: npt.NDArray[np.int32]) -> None:
        self.counts = counts.reshape(-1, 3)
        self._ids = ids.astype(np.int64)
        displaced_twice = self.counts[:, [0, 1, 2, 2]].astype(np.int64)
        self._edges: list[int] = np.cumsum([0, *displaced_twice.ravel().tolist()]).tolist()
        if self._edges[-1] != len(ids):
            raise ValueError(f"rows of ids claim {self._edges[-1]} numbers and have {len(ids)}")

    def __getitem__(self, index: int) -> RowDiff:
        start, extra, displaced, places, end = self._edges[4 * index : 4 * index + 5]
        return RowDiff(
            self._ids[start:extra],
            self._ids[extra:displaced],
            self._ids[displaced:places],
            self._ids[places:end],
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
        """Read the differences of one step, or only its ids.

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


def decode_decisions(
    records: Sequence[Mapping[str, Any]],
    part: Part,
    before: CacheState,
    new_ids: IntArray,
    layers: frozenset[int] | None = None,
) -> tuple[LayerDecision, ...]:
    """The decisions of one step, of some layers or of all; `before` is the state before it."""
    if not records:
        return ()
    counts, ids, bits, values, sources = part.read(
        "candidates.counts", "candidates.ids", "kept", "scores", "sources"
    )
    rows = PackedRows(counts, ids)
    cells = sum(record["heads"] * record["tokens"] for record in records)
    kept = np.unpackbits(bits, count=cells).astype(np.bool_)
    taken = _Taken()
    decisions: list[LayerDecision] = []
    for record in records:
        shape = heads, tokens = record["heads"], record["tokens"]
        first = taken.advance("rows", heads)
        mask = kept[taken.span("kept", heads * tokens)].reshape(shape)
        spans = {
            name: values[taken.span("values", int(np.prod(size)))].reshape(size)
            for name, size in ((None, record["scores"]), *record["terms"].items())
        }
        merged = tuple(
            MergeRecord(id_, sources[taken.span("sources", count)].astype(np.int64))
            for id_, count in record["merged"]
        )
        layer = record["layer"]
        if layers is not None and layer not in layers:
            continue
        candidates = [
            decode_row(rows[first + head], union(before.rows(layer, heads)[head], new_ids))
            for head in range(heads)
        ]
        scores = spans.pop(None)
        decisions.append(
            LayerDecision(
                layer=layer,
                candidates=np.stack(candidates),
                kept=mask,
                scores=scores,
                terms=Frozen({str(name): term for name, term in spans.items()}),
                merged=merged,
                budget_tokens=record["budget"],
            )
        )
    return tuple(decisions)


class _Taken:
    """How far each flat array has been read."""

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}

    def advance(self, name: str, count: int) -> int:
        start = self._ends.get(name, 0)
        self._ends[name] = start + count
        return start

    def span(self, name: str, count: int) -> slice:
        start = self.advance(name, count)
        return slice(start, start + count)
