"""When every video token came into each layer, when it left, and what it is at any step: arrays to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief
from hermes_lab.recording.idsets import NONE, IntArray, PackedRows
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from hermes_lab.recording.reader import Recording

_STILL = np.iinfo(np.int64).max  # "left" of a token that is still held


class TokenState(IntEnum):
    """What a layer has done with a video token by some step."""

    ABSENT = 0  # has not come yet, or never came into this layer
    KEPT = 1  # at least one head holds it
    EVICTED = 2
    MERGED = 3  # no longer held itself, but went into a synthesised token
    PROTECTED = 4  # held, and not up for eviction in the layer's latest decision


@dataclass(frozen=True, repr=False)
class LayerChronicle(Brief):
    """Who came and left one layer; a token that leaves and comes again has one entry for each stay.

    Attributes:
        ids, head: of each stay, [stay].
        entered, left: indices of steps; `left` is huge while held, and equals `entered` for a token that was
            evicted in the step in which it came, [stay].
        merged: for each merge, step index, synthesised id and source id, [source, 3].
        decided: indices of the steps in which the layer decided, ascending, [decision].
        protected: ids that were there but not up for eviction, one array a decision.
        heads: heads after each step, [step].
    """

    ids: IntArray
    head: IntArray
    entered: IntArray
    left: IntArray
    merged: IntArray
    decided: IntArray
    protected: tuple[IntArray, ...]
    heads: IntArray

    def held(self, index: int) -> IntArray:
        """Ids held after a step, once for each head that holds them, [held]."""
        return self.ids[(self.entered <= index) & (index < self.left)]

    def state(self, index: int, tokens: int) -> npt.NDArray[np.int8]:
        """`TokenState` of global ids 0 ... tokens - 1 after a step, [token]."""
        state = np.zeros(tokens, np.int8)
        came = self.entered <= index
        state[self.ids[came]] = TokenState.EVICTED
        state[self.merged[self.merged[:, 0] <= index, 2]] = TokenState.MERGED
        held = self.held(index)
        state[held] = TokenState.KEPT
        latest = int(np.searchsorted(self.decided, index, side="right")) - 1
        if latest >= 0:
            protected = self.protected[latest]
            state[protected[state[protected] == TokenState.KEPT]] = TokenState.PROTECTED
        return state


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
        rows = [c.state(index, self._tokens)[self.ids] for c in self._chronicles]
        return np.array(rows, np.int8).reshape(len(self.layers), len(self.ids))

    def held_share(self, step: int | None = None) -> npt.NDArray[np.float32]:
        """Share of KV heads that hold each token after a step, 0 ... 1, [layer, token]."""
        index = self._index(step)
        shares = np.zeros((len(self.layers), len(self.ids)), np.float32)
        for row, chronicle_ in enumerate(self._chronicles):
            if index >= 0:
                counts = np.bincount(chronicle_.held(index), minlength=self._tokens)
                shares[row] = counts[self.ids] / chronicle_.heads[index]
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
    chronicles = tuple(recording.chronicle(n) for n in layers)
    role = recording.tokens.column("role")
    ids = np.flatnonzero((role == Role.VISUAL) | (role == Role.SUMMARY))
    steps = recording.timeline.step
    entered = np.full((len(layers), len(ids)), -1, np.int32)
    left = entered.copy()
    for row, stays in enumerate(chronicles):
        first = np.full(len(role), _STILL)
        last = np.full(len(role), -1)
        np.minimum.at(first, stays.ids, stays.entered)
        np.maximum.at(last, stays.ids, stays.left)
        came = first[ids] != _STILL
        gone = came & (last[ids] != _STILL)
        entered[row, came] = steps[first[ids[came]]]
        left[row, gone] = steps[last[ids[gone]]]
    return Retention(ids, layers, steps, entered, left, chronicles, len(role))


def chronicle(recording: Recording, layer: int) -> LayerChronicle:
    """Pair every arrival in a layer with the departure that ended it."""
    came: list[tuple[int, int, IntArray]] = []
    went: list[tuple[int, int, IntArray]] = []
    heads = 1
    for index, diff in enumerate(recording.diffs):
        if (
            diff.heads[layer] != heads
        ):  # a shared set becomes one set a head, or the other way round
            before = recording.state(index - 1).held[layer] if index else NONE[None]
            if heads == 1:
                came += [(index, head, before[0]) for head in range(1, diff.heads[layer])]
            else:
                went += [(index, head, row) for head, row in enumerate(before)]
            heads = diff.heads[layer]
        for head in range(heads):
            row = diff.held(layer, head)
            came.append((index, head, diff.arrived))
            came.append((index, head, row.extra))
            went.append((index, head, row.missing))
    stays, entered = _in_order(came)
    ends, left_at = _in_order(went)
    left = np.full(len(stays), _STILL)
    left[np.searchsorted(stays, ends)] = left_at
    log = recording.decision_logs[layer]
    keys = stays // _STAYS
    return LayerChronicle(
        ids=keys % _IDS,
        head=keys // _IDS,
        entered=entered,
        left=left,
        merged=log.merged,
        decided=log.decided,
        protected=log.protected,
        heads=np.array([diff.heads[layer] for diff in recording.diffs], np.int64),
    )


_IDS = 2**31  # ids fit int32
_STAYS = 2**20  # a token can come into a layer so many times


def _in_order(events: Sequence[tuple[int, int, IntArray]]) -> tuple[IntArray, IntArray]:
    """Keys made of (head, id, how many times before), sorted, and the step index of each."""
    lengths = [len(ids) for _, _, ids in events]
    index = np.repeat([index for index, _, _ in events], lengths).astype(np.int64)
    head = np.repeat([head for _, head, _ in events], lengths).astype(np.int64)
    keys = head * _IDS + np.concatenate([NONE, *(ids for _, _, ids in events)])
    order = np.argsort(keys, kind="stable")
    keys, index = keys[order], index[order]
    position = np.arange(len(keys))
    is_first = np.ones(len(keys), np.bool_)
    is_first[1:] = keys[1:] != keys[:-1]
    times_before = position - np.maximum.accumulate(np.where(is_first, position, 0))
    return keys * _STAYS + times_before, index


@dataclass(frozen=True, repr=False)
class DecisionLog(Brief):
    """What the decisions of one layer say beyond who was evicted; see `LayerChronicle`."""

    merged: IntArray
    decided: IntArray
    protected: tuple[IntArray, ...]


def decision_logs(recording: Recording) -> tuple[DecisionLog, ...]:
    """The decision log of every layer, in one pass over the parts."""
    merged: list[list[tuple[int, int, int]]] = [[] for _ in range(recording.layers)]
    decided: list[list[int]] = [[] for _ in range(recording.layers)]
    protected: list[list[IntArray]] = [[] for _ in range(recording.layers)]
    for index, part in enumerate(recording.step_parts):
        counts, ids, sources = recording.read(
            part, lambda p: p.read("candidates.counts", "candidates.ids", "sources")
        )
        rows = PackedRows(counts, ids)
        row = source = 0
        for record in part.record["decisions"]:
            layer, heads = record["layer"], record["heads"]
            missing = [rows[row + head].missing for head in range(heads)]
            row += heads
            decided[layer].append(index)
            protected[layer].append(np.unique(np.concatenate(missing)))
            for owner, count in record["merged"]:
                into = sources[source : source + count].tolist()
                merged[layer] += [(index, owner, one) for one in into]
                source += count
    return tuple(
        DecisionLog(np.array(m, np.int64).reshape(-1, 3), np.array(d, np.int64), tuple(p))
        for m, d, p in zip(merged, decided, protected, strict=True)
    )
