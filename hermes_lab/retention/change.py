"""What a step changes in every layer, noted while it happens: in the tensors that there are anyway.

Nothing is copied from the device before somebody looks at it. Only ids and positions are kept, no keys or values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from hermes_lab.engine.batches import batches
from hermes_lab.engine.cache import LayerState
from hermes_lab.later import later
from hermes_lab.snapshot import IntArray, LayerChange, LayerDecision


@dataclass(frozen=True)
class Made:
    """What a policy's `merge` added to one layer.

    Attributes:
        ids: of the new tokens.
        positions: where they stand.
        order: all ids of the layer, where the new tokens were put between others.
    """

    ids: IntArray
    positions: Int[Tensor, "axis token"]
    order: Int[Tensor, "head all_tokens"] | None = None


@dataclass
class StepNotes:
    """What one step has done so far.

    Attributes:
        protected: cached tokens of the system prefix, of which nothing is told.
        arrived: ids that came in this step.
        arrived_at: their positions; None where none came.
        made: by layer.
        moved: layers whose positions were compacted.
    """

    protected: int
    arrived: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    arrived_at: Int[Tensor, "layer axis token"] | None = None
    made: dict[int, Made] = field(default_factory=dict[int, Made])
    moved: set[int] = field(default_factory=set[int])

    def came(self, ids: IntArray, states: Sequence[LayerState]) -> None:
        """Tokens were appended to every layer."""
        self.arrived = ids
        if len(ids):
            self.arrived_at = torch.stack([s.positions[0, :, -len(ids) :] for s in states])

    def held(self, states: Sequence[LayerState]) -> tuple[IntArray, ...]:
        """`Snapshot.held`, to be copied on sight."""
        ids = [state.ids[:, self.protected :] for state in states]
        return later(lambda: on_host(ids))

    def positions(self, states: Sequence[LayerState]) -> tuple[IntArray, ...]:
        """`Snapshot.positions`, to be copied on sight."""
        positions = [state.positions[..., self.protected :] for state in states]
        return later(lambda: on_host(positions))

    def changes(
        self, states: Sequence[LayerState], decisions: Sequence[LayerDecision]
    ) -> tuple[LayerChange, ...]:
        """`Snapshot.changes`, to be worked out on sight; `states` after the step."""
        heads = [state.ids.shape[0] for state in states]
        axes = states[0].positions.shape[1]
        moved = {
            n: (states[n].ids[:, self.protected :], states[n].positions[..., self.protected :])
            for n in sorted(self.moved)
        }
        made, arrived, arrived_at = dict(self.made), self.arrived, self.arrived_at
        return later(lambda: _changes(heads, axes, decisions, arrived, arrived_at, made, moved))


def _changes(
    heads: Sequence[int],
    axes: int,
    decisions: Sequence[LayerDecision],
    arrived: IntArray,
    arrived_at: Tensor | None,
    made: dict[int, Made],
    moved: dict[int, tuple[Tensor, Tensor]],
) -> tuple[LayerChange, ...]:
    """`Snapshot.changes`, from what was noted."""
    decided = {decision.layer: decision for decision in decisions}
    moved_ids = dict(zip(moved, on_host([ids for ids, _ in moved.values()]), strict=True))
    moved_to = dict(zip(moved, on_host([to for _, to in moved.values()]), strict=True))
    orders = {n: m.order for n, m in made.items() if m.order is not None}
    order = dict(zip(orders, on_host(list(orders.values())), strict=True))
    added_at = dict(zip(made, on_host([m.positions for m in made.values()]), strict=True))
    if arrived_at is None:
        came = np.empty((len(heads), axes, 0), np.int64)
    else:
        came = arrived_at.cpu().numpy()
    return tuple(
        LayerChange(
            arrived=arrived,
            arrived_at=came[n],
            evicted=_evicted(decided.get(n), count),
            added=made[n].ids if n in made else arrived[:0],
            added_at=added_at.get(n, np.empty((axes, 0), np.int64)),
            order=order.get(n, np.empty((count, 0), np.int64)),
            moved=moved_ids.get(n, np.empty((count, 0), np.int64)),
            moved_to=moved_to.get(n, np.empty((count, axes, 0), np.int64)),
        )
        for n, count in enumerate(heads)
    )


def _evicted(decision: LayerDecision | None, heads: int) -> IntArray:
    if decision is None:
        return np.empty((heads, 0), np.int64)
    gone = decision.candidates[~decision.kept].reshape(len(decision.kept), -1)
    return np.sort(gone, axis=1)


def on_host(tensors: Sequence[Tensor]) -> tuple[npt.NDArray[np.int64], ...]:
    """Integer tensors as arrays of their own; one transfer for all of a shape."""
    found: dict[int, npt.NDArray[np.int64]] = {}
    for group in batches((t.shape, t.dtype, t.device) for t in tensors):
        together = torch.stack([tensors[n] for n in group]).cpu().numpy()
        found |= zip(group, together, strict=True)
    return tuple(found[n] for n in range(len(tensors)))
