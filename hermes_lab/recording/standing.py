"""Where a recording stands after its newest step: how much every layer holds, and on demand which tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hermes_lab.later import Later, unseen
from hermes_lab.recording.state import CacheState, IntArray, Shapes, shapes_of
from hermes_lab.snapshot import LayerChange, Snapshot

_NOTHING: Shapes = {"heads": [], "tokens": [], "axes": []}


class Standing:
    """What the layers hold; arrays of its own, which nobody else can write to.

    Args:
        shapes: of all layers.
        state: makes the state itself.
        changed: numbers that the newest step changed; None: all.
    """

    def __init__(
        self,
        shapes: Shapes = _NOTHING,
        state: Callable[[], CacheState] = CacheState,
        changed: int | None = None,
    ) -> None:
        self._shapes = shapes
        self.changed = self.numbers if changed is None else changed
        self._state = Later(state)

    @classmethod
    def after(cls, snapshot: Snapshot, shapes: Shapes | None) -> Standing:
        """After a step; `shapes` are those of `shapes_after`, or None.

        Raises:
            ValueError: the snapshot's ids and positions contradict each other.
        """
        held, positions = _own(snapshot, "held"), _own(snapshot, "positions")
        if shapes is None:
            state = CacheState(held(), positions())
            return cls(shapes_of(state), lambda: state)
        changed = sum(
            c.arrived_at.size + c.evicted.size + c.added_at.size + c.order.size + c.moved_to.size
            for c in snapshot.changes
        )
        return cls(shapes, lambda: CacheState(held(), positions()), changed)

    @property
    def state(self) -> CacheState:
        """The tokens themselves."""
        return self._state.get()

    @property
    def layers(self) -> int:
        """How many; 0 before the first step."""
        return len(self._shapes["heads"])

    @property
    def numbers(self) -> int:
        """Ids and positions in a checkpoint of this state."""
        heads, tokens, axes = (self._shapes[name] for name in ("heads", "tokens", "axes"))
        cells = [h * t for h, t in zip(heads, tokens, strict=True)]
        return sum(cells) + sum(c * a for c, a in zip(cells, axes, strict=False))

    def tokens(self, layer: int) -> int:
        """How many tokens each head of a layer holds."""
        return self._shapes["tokens"][layer] if layer < self.layers else 0

    def shapes_after(self, snapshot: Snapshot) -> Shapes | None:
        """Shapes after a step, if its changes lead from here to what it holds; None: they cannot be written."""
        changes = snapshot.changes
        if not changes or self.layers not in (0, len(changes)):
            return None
        fits = all(self._fits(n, change, snapshot.new_ids) for n, change in enumerate(changes))
        if not fits:
            return None
        shapes: Shapes = {
            "heads": [len(c.evicted) for c in changes],
            "tokens": [
                self.tokens(n) + len(c.arrived) - c.evicted.shape[1] + len(c.added)
                for n, c in enumerate(changes)
            ],
            "axes": [len(c.arrived_at) for c in changes],
        }
        seen = unseen(snapshot, "held") is None or unseen(snapshot, "positions") is None
        return None if seen and not self._leads_to(snapshot, shapes) else shapes

    def _fits(self, layer: int, change: LayerChange, new_ids: IntArray) -> bool:
        """Whether the arrays of a change have the shapes that it promises."""
        heads, axes = len(change.evicted), len(change.arrived_at)
        before = self._shapes["heads"][layer] if self.layers else heads
        tokens = self.tokens(layer) + len(new_ids) - change.evicted.shape[1] + len(change.added)
        return (
            before in (1, heads)
            and self._shapes["axes"][layer : layer + 1] in ([], [axes])
            and tokens >= 0
            and np.array_equal(change.arrived, new_ids)
            and change.arrived_at.shape == (axes, len(new_ids))
            and change.added_at.shape == (axes, len(change.added))
            and change.order.shape in ((heads, 0), (heads, tokens))
            and change.moved.shape in ((heads, 0), (heads, tokens))
            and change.moved_to.shape == (heads, axes, change.moved.shape[1])
        )

    def _leads_to(self, snapshot: Snapshot, shapes: Shapes) -> bool:
        """Whether the changes lead to arrays that somebody else may have written to, or given."""
        if [len(rows) for rows in snapshot.held] != shapes["heads"]:
            return False
        if len(snapshot.positions) != len(snapshot.held):
            return False
        try:
            made = [change_layer(self.state, n, c) for n, c in enumerate(snapshot.changes)]
        except ValueError:
            return False
        return all(
            np.array_equal(ids, rows) and np.array_equal(at, places)
            for (ids, at), rows, places in zip(made, snapshot.held, snapshot.positions, strict=True)
        )


def change_layer(state: CacheState, n: int, change: LayerChange) -> tuple[IntArray, IntArray]:
    """Ids and positions of one layer after a change of it.

    Raises:
        ValueError: tokens leave or stand where there are none.
    """
    heads = len(change.evicted)
    pool = state.pool(n, heads, change.arrived)
    before = state.places(n, heads, len(change.arrived_at))
    came_at = np.broadcast_to(change.arrived_at, (heads, *change.arrived_at.shape))
    places = np.concatenate([before, came_at], 2)
    ids: list[IntArray] = []
    stand: list[IntArray] = []
    for head, (row, gone) in enumerate(zip(pool, change.evicted, strict=True)):
        stays = stays_of(row, gone)
        row = np.concatenate([row[stays], change.added])
        at = np.concatenate([places[head][:, stays], change.added_at], 1)
        if change.order.size:
            order = order_of(row, change.order[head])
            row, at = row[order], at[:, order]
        ids.append(row)
        stand.append(at)
    held = np.stack(ids)
    if change.moved.size:
        if not np.array_equal(change.moved, held):
            raise ValueError("other tokens were moved than are held")
        return held, change.moved_to
    return held, np.stack(stand)


def stays_of(row: IntArray, gone: IntArray) -> IntArray:
    """Where in a row the ids stand that did not go.

    Raises:
        ValueError: one that goes is not there.
    """
    stays = np.flatnonzero(np.isin(row, gone, assume_unique=True, invert=True))
    if len(stays) + len(gone) != len(row):
        raise ValueError("tokens leave that a layer does not hold")
    return stays


def order_of(row: IntArray, order: IntArray) -> IntArray:
    """Where the ids of another order of a row stand in it.

    Raises:
        ValueError: they are not the same ids.
    """
    sorter = np.argsort(row)
    if not np.array_equal(row[sorter], np.sort(order)):
        raise ValueError("an order names other tokens than a layer holds")
    return sorter[np.searchsorted(row, order, sorter=sorter)]


def _own(snapshot: Snapshot, name: str) -> Callable[[], tuple[IntArray, ...]]:
    """Makes arrays of a field that are nobody else's; where the field has not been looked at, neither is it here."""
    waiting = unseen(snapshot, name)
    make: Callable[[], Any] | None = None if waiting is None else waiting.again()
    if make is not None:
        return make
    arrays = tuple(np.array(rows, np.int64) for rows in getattr(snapshot, name))
    return lambda: arrays
