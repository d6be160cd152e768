"""When every video token came into each layer, when it left, and what it is at any step: arrays to draw."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief
from hermes_lab.recording.chronicle import STILL, LayerChronicle
from hermes_lab.recording.state import IntArray
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from hermes_lab.recording.reader import Recording


class TokenState(IntEnum):
    """What a layer has done with a video token by some step."""

    ABSENT = 0  # has not come yet, or never came into this layer
    KEPT = 1  # at least one head holds it
    EVICTED = 2
    MERGED = 3  # no longer held itself, but went into a synthesised token
    PROTECTED = 4  # held, and not up for eviction in the layer's latest decision


@dataclass(frozen=True, repr=False)
class Retention(Brief):
    """The fate of every video token (columns) in some layers (rows).

    Attributes:
        ids: global ids of the columns: visual and synthesised tokens, in order of arrival, [token].
        layers: decoder layers of the rows.
        steps: `Snapshot.step` of every recorded step, [step].
        entered_step: `Snapshot.step` at which the token came, -1 where it never did, [layer, token].
        left_step: `Snapshot.step` at which the last head let it go, -1 while held or absent, [layer, token].
    """

    ids: IntArray
    layers: tuple[int, ...]
    steps: IntArray
    entered_step: npt.NDArray[np.int32]
    left_step: npt.NDArray[np.int32]
    _chronicles: tuple[LayerChronicle, ...]
    _tokens: int

    def state(self, step: int | None = None) -> npt.NDArray[np.int8]:
        """`TokenState` after the step with this `Snapshot.step` (default: the last), [layer, token]."""
        index = self._index(step)
        rows = [state_of(c, index, self._tokens)[self.ids] for c in self._chronicles]
        return np.array(rows, np.int8).reshape(len(self.layers), len(self.ids))

    def held_share(self, step: int | None = None) -> npt.NDArray[np.float32]:
        """Share of KV heads that hold each token after a step, 0 ... 1, [layer, token]."""
        index = self._index(step)
        shares = np.zeros((len(self.layers), len(self.ids)), np.float32)
        for row, chronicle_ in enumerate(self._chronicles):
            if index >= 0:
                counts = np.bincount(chronicle_.held(index), minlength=self._tokens)
                shares[row] = counts[self.ids] / max(int(chronicle_.heads[index]), 1)
        return shares

    def _index(self, step: int | None) -> int:
        """Index of the newest recorded step that is not after `step`; -1 before the first."""
        return (
            len(self.steps) - 1
            if step is None
            else int(np.searchsorted(self.steps, step, side="right")) - 1
        )


def retention(recording: Recording, layer: int | None) -> Retention:
    """Build the arrays of `Recording.retention`.

    Raises:
        RecordingError: there is no such layer.
    """
    layers = tuple(range(recording.layers)) if layer is None else (layer,)
    chronicles = recording.chronicles(layers)
    role = recording.tokens.column("role")
    ids = np.flatnonzero((role == Role.VISUAL) | (role == Role.SUMMARY))
    steps = recording.timeline.step.astype(np.int32)
    entered = np.full((len(layers), len(ids)), -1, np.int32)
    left = entered.copy()
    for row, stays in enumerate(chronicles):
        first = np.full(len(role), STILL, np.int32)
        np.minimum.at(first, stays.ids, stays.entered)
        first = first[ids]
        came = first != STILL
        entered[row, came] = steps[first[came]]
        last = np.full(len(role), -1, np.int32)
        np.maximum.at(last, stays.ids, stays.left)
        last = last[ids]
        gone = came & (last != STILL)
        left[row, gone] = steps[last[gone]]
    if len(layers) > 1 and (entered == entered[0]).all():  # as under most policies
        entered = np.broadcast_to(entered[0].copy(), entered.shape)
    return Retention(ids, layers, steps.astype(np.int64), entered, left, chronicles, len(role))


def state_of(chronicle: LayerChronicle, index: int, tokens: int) -> npt.NDArray[np.int8]:
    """`TokenState` of global ids 0 ... tokens - 1 after the step with an index, [token]."""
    state = np.zeros(tokens, np.int8)
    came = chronicle.entered <= index
    state[chronicle.ids[came]] = TokenState.EVICTED
    state[chronicle.merged[chronicle.merged[:, 0] <= index, 2]] = TokenState.MERGED
    state[chronicle.held(index)] = TokenState.KEPT
    latest = int(np.searchsorted(chronicle.decided, index, side="right")) - 1
    if latest >= 0:
        protected = chronicle.protected[latest]
        state[protected[state[protected] == TokenState.KEPT]] = TokenState.PROTECTED
    return state
