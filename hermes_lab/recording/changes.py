"""What a step changed in each layer, as arrays of a step part, and the state that follows from it.

A step that nobody told (`Snapshot.changes` is empty), or that does not follow the step that was written before it,
is written as the whole state behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hermes_lab.brief import Brief
from hermes_lab.recording.compact import pack_rows, unpack_rows
from hermes_lab.recording.parts import Array, Part
from hermes_lab.recording.standing import Standing, order_of, stays_of
from hermes_lab.recording.state import NONE, CacheState, IntArray, decode_state, shrink
from hermes_lab.snapshot import LayerChange

_FOUND = ("arrived_at", "evicted", "added_at", "moved_to")


def encode_changes(
    changes: Sequence[LayerChange], before: Standing
) -> tuple[dict[str, Any], dict[str, Array]]:
    """A JSON record and arrays; `before` is the state before the step, looked at only where it is needed."""
    orders = [NONE]
    for layer, change in enumerate(changes):
        if change.order.size:
            pool = _without(before.state, layer, change)
            found = [_displaced(row, order) for row, order in zip(pool, change.order, strict=True)]
            orders += [np.array([len(places) for _, places in found])]
            orders += [numbers for pair in found for numbers in pair]
    record = {
        "evicted": [change.evicted.shape[1] for change in changes],
        "added": [len(change.added) for change in changes],
        "ordered": [bool(change.order.size) for change in changes],
        "moved": [bool(change.moved.size) for change in changes],
    }
    rows = {
        "arrived_at": [c.arrived_at for c in changes],
        "evicted": [c.evicted for c in changes],
        "added_at": [c.added_at for c in changes],
        "moved_to": [_as_rows(c.moved_to) for c in changes],
    }
    tensors: dict[str, Array] = {}
    for name, blocks in rows.items():
        firsts, steps = pack_rows(blocks)
        if len(firsts):
            tensors[f"{name}.first"], tensors[f"{name}.steps"] = firsts, steps
    if sum(record["added"]):
        tensors["added"] = np.concatenate([c.added for c in changes]).astype(np.int32)
    if len(orders) > 1:
        tensors["displaced"] = shrink(np.concatenate(orders))
    return record, tensors


def _as_rows(places: IntArray) -> IntArray:
    heads, axes, tokens = places.shape
    return places.reshape(heads * axes, tokens)


def _displaced(row: IntArray, order: IntArray) -> tuple[IntArray, IntArray]:
    """Which numbers of a row stand before a smaller one in another order of it, and where they stand."""
    place = order_of(row, order)
    least_after = np.minimum.accumulate(place[::-1])[::-1][1:]
    late = np.flatnonzero(place[:-1] > least_after)
    return place[late], late


def _without(before: CacheState, layer: int, change: LayerChange) -> IntArray:
    """Ids of a layer after a step, in the order in which they come."""
    pool = before.pool(layer, len(change.evicted), change.arrived)
    rows = [
        np.concatenate([row[stays_of(row, gone)], change.added])
        for row, gone in zip(pool, change.evicted, strict=True)
    ]
    return np.stack(rows)


@dataclass(frozen=True, repr=False)
class StepChanges(Brief):
    """The changes of one step, read from its part.

    Attributes:
        new_ids: ids that arrived, in their order.
        heads, tokens, axes: per layer, after the step.
        whole: what the layers hold after it, where that was written instead of changes.
    """

    new_ids: IntArray
    heads: tuple[int, ...]
    tokens: tuple[int, ...]
    axes: tuple[int, ...]
    whole: CacheState | None
    arrived_at: tuple[IntArray, ...] = ()
    evicted: tuple[IntArray, ...] = ()
    added: tuple[IntArray, ...] = ()
    added_at: tuple[IntArray, ...] = ()
    moved_to: tuple[IntArray, ...] = ()
    displaced: tuple[tuple[tuple[IntArray, IntArray], ...], ...] = ()

    @classmethod
    def read(cls, record: Mapping[str, Any], part: Part) -> StepChanges:
        """Read what `encode_changes`, or `encode_state` in its place, wrote.

        Raises:
            ValueError: arrays contradict the record.
        """
        shapes, change = record["state"], record["change"]
        heads, tokens, axes = (tuple(shapes[name]) for name in ("heads", "tokens", "axes"))
        (new,) = part.read("new_ids")
        if change is None:
            whole = decode_state(shapes, part, "after")
            return cls(new.astype(np.int64), heads, tokens, axes, whole)
        layers = range(len(heads))
        counts = {
            "arrived_at": [(axes[n], len(new)) for n in layers],
            "evicted": [(heads[n], change["evicted"][n]) for n in layers],
            "added_at": [(axes[n], change["added"][n]) for n in layers],
            "moved_to": [
                (heads[n] * axes[n], tokens[n] if change["moved"][n] else 0) for n in layers
            ],
        }
        arrays = part.read(*(f"{name}.{end}" for name in _FOUND for end in ("first", "steps")))
        read = {
            name: unpack_rows(arrays[2 * n], arrays[2 * n + 1], counts[name])
            for n, name in enumerate(_FOUND)
        }
        added, displaced = part.read("added", "displaced")
        return cls(
            new.astype(np.int64),
            heads,
            tokens,
            axes,
            None,
            arrived_at=read["arrived_at"],
            evicted=read["evicted"],
            added=tuple(_cut(added.astype(np.int64), change["added"])),
            added_at=read["added_at"],
            moved_to=tuple(
                block.reshape(heads[n], axes[n], -1) if block.size else block.reshape(0, 0, 0)
                for n, block in enumerate(read["moved_to"])
            ),
            displaced=_read_orders(heads, change["ordered"], displaced.astype(np.int64)),
        )

    def told(self, after: CacheState) -> tuple[LayerChange, ...]:
        """`Snapshot.changes`; `after` is the state after the step."""
        if self.whole is not None:
            return ()
        return tuple(self._layer(n, after) for n in range(len(self.heads)))

    def _layer(self, n: int, after: CacheState) -> LayerChange:
        heads, axes = self.heads[n], self.axes[n]
        moved = bool(self.moved_to[n].size)
        return LayerChange(
            arrived=self.new_ids,
            arrived_at=self.arrived_at[n],
            evicted=self.evicted[n],
            added=self.added[n],
            added_at=self.added_at[n],
            order=after.held[n] if self.displaced[n] else np.empty((heads, 0), np.int64),
            moved=after.held[n] if moved else np.empty((heads, 0), np.int64),
            moved_to=self.moved_to[n] if moved else np.empty((heads, axes, 0), np.int64),
        )


def _cut(flat: IntArray, counts: Sequence[int]) -> list[IntArray]:
    if len(flat) != sum(counts):
        raise ValueError(f"there are {len(flat)} numbers where {sum(counts)} were recorded")
    return np.split(flat, np.cumsum(counts)[:-1]) if counts else []


def _read_orders(
    heads: Sequence[int], ordered: Sequence[bool], flat: IntArray
) -> tuple[tuple[tuple[IntArray, IntArray], ...], ...]:
    """Per layer and head, which numbers are displaced and where to; nothing for layers in their own order."""
    found: list[tuple[tuple[IntArray, IntArray], ...]] = []
    at = 0
    for rows, is_ordered in zip(heads, ordered, strict=True):
        pairs: list[tuple[IntArray, IntArray]] = []
        if is_ordered:
            lengths = flat[at : at + rows]
            at += rows
            for length in lengths.tolist():
                pairs.append((flat[at : at + length], flat[at + length : at + 2 * length]))
                at += 2 * length
        found.append(tuple(pairs))
    if at != len(flat):
        raise ValueError(f"orders claim {at} numbers and have {len(flat)}")
    return tuple(found)


def follow(
    state: CacheState, steps: Sequence[StepChanges], *, positions: bool = True
) -> CacheState:
    """The state after some steps, from the state before the first of them.

    Raises:
        ValueError: the steps contradict each other or the state.
    """
    for start in range(len(steps) - 1, -1, -1):
        whole = steps[start].whole
        if whole is not None:
            state, steps = whole, steps[start + 1 :]
            break
    if not steps:
        return state if positions else CacheState(state.held)
    layers = [_follow_layer(state, steps, n, positions) for n in range(len(steps[-1].heads))]
    held = tuple(rows for rows, _ in layers)
    return CacheState(held, tuple(places for _, places in layers) if positions else ())


def _follow_layer(
    state: CacheState, steps: Sequence[StepChanges], n: int, positions: bool
) -> tuple[IntArray, IntArray]:
    """One layer of `follow`; tokens that only arrive are put behind the others when something else happens."""
    heads = steps[0].heads[n]
    axes = steps[0].axes[n] if positions else 0
    rows, places = state.rows(n, heads), state.places(n, heads, axes)
    came: list[IntArray] = []
    came_at: list[IntArray] = []
    for step in steps:
        if step.heads[n] != heads:
            rows, places = _arrive(rows, places, came, came_at)
            came, came_at, heads = [], [], step.heads[n]
            state = CacheState((rows,), (places,))
            rows, places = state.rows(0, heads), state.places(0, heads, axes)
        came.append(step.new_ids)
        came_at.append(step.arrived_at[n][:axes])
        if step.evicted[n].size or len(step.added[n]) or step.moved_to[n].size:
            rows, places = _arrive(rows, places, came, came_at)
            came, came_at = [], []
            rows, places = _change(rows, places, step, n, axes)
    rows, places = _arrive(rows, places, came, came_at)
    if rows.shape[1] != steps[-1].tokens[n]:
        raise ValueError(f"layer {n} holds {rows.shape[1]} tokens, not {steps[-1].tokens[n]}")
    return rows, places


def _arrive(
    rows: IntArray, places: IntArray, came: Sequence[IntArray], came_at: Sequence[IntArray]
) -> tuple[IntArray, IntArray]:
    if not came:
        return rows, places
    new, at = np.concatenate(came), np.concatenate(came_at, 1)
    heads = len(rows)
    return (
        np.concatenate([rows, np.broadcast_to(new, (heads, len(new)))], 1),
        np.concatenate([places, np.broadcast_to(at, (heads, *at.shape))], 2),
    )


def _change(
    rows: IntArray, places: IntArray, step: StepChanges, n: int, axes: int
) -> tuple[IntArray, IntArray]:
    """Ids and positions of one layer when all of a step but the arrivals has happened."""
    ids: list[IntArray] = []
    stand: list[IntArray] = []
    for head, (row, gone) in enumerate(zip(rows, step.evicted[n], strict=True)):
        stays = stays_of(row, gone)
        row = np.concatenate([row[stays], step.added[n]])
        at = np.concatenate([places[head][:, stays], step.added_at[n][:axes]], 1) if axes else None
        if step.displaced[n]:
            order = _order(len(row), *step.displaced[n][head])
            row, at = row[order], None if at is None else at[:, order]
        ids.append(row)
        if at is not None:
            stand.append(at)
    if axes and step.moved_to[n].size:
        return np.stack(ids), step.moved_to[n]
    return np.stack(ids), np.stack(stand) if axes else places[..., :0]


def _order(length: int, displaced: IntArray, places: IntArray) -> IntArray:
    """0, 1, 2, ... with some of them put elsewhere."""
    stays, free = np.ones(length, np.bool_), np.ones(length, np.bool_)
    stays[displaced] = False
    free[places] = False
    order = np.empty(length, np.int64)
    order[places] = displaced
    order[free] = np.flatnonzero(stays)
    return order
