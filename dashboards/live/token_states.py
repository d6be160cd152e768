"""Follow a running stream snapshot by snapshot: the same token states that a recording of it would give."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hermes_lab.recording import TokenState
from hermes_lab.snapshot import LayerDecision, Snapshot
from hermes_lab.tokens import Role, TokenTable

Ints = npt.NDArray[np.int64]
_NONE = np.empty(0, np.int64)


class Tracker:
    """`TokenState` of every token of a stream in every layer; `add` each snapshot once, in order."""

    def __init__(self) -> None:
        self._came: list[npt.NDArray[np.bool_]] = []
        self._merged: list[npt.NDArray[np.bool_]] = []
        self._held: tuple[Ints, ...] = ()
        self._protected: list[Ints] = []

    def add(self, snapshot: Snapshot, table: TokenTable) -> tuple[Ints, npt.NDArray[np.int8]]:
        """Take one step; ids of the video tokens so far and their states, [token] and [layer, token]."""
        layers, tokens = len(snapshot.held), len(table)
        if not self._held:
            self._held = tuple(np.empty((len(h), 0), np.int64) for h in snapshot.held)
            self._came = [np.zeros(0, np.bool_) for _ in range(layers)]
            self._merged = [np.zeros(0, np.bool_) for _ in range(layers)]
            self._protected = [_NONE] * layers
        for layer in range(layers):
            self._came[layer] = _grown(self._came[layer], tokens)
            self._merged[layer] = _grown(self._merged[layer], tokens)
            self._came[layer][snapshot.new_ids] = True
            self._came[layer][snapshot.held[layer].ravel()] = True
        for decision in snapshot.decisions:
            self._decide(decision, snapshot.new_ids)
        self._held = snapshot.held
        role = table.column("role")
        ids = np.flatnonzero((role == Role.VISUAL) | (role == Role.SUMMARY))
        states = np.stack([self._state(layer)[ids] for layer in range(layers)])
        states.flags.writeable = False
        return ids, states

    def _decide(self, decision: LayerDecision, new_ids: Ints) -> None:
        """Note what was merged, and which tokens were there without being up for eviction."""
        layer = decision.layer
        for merge in decision.merged:
            self._merged[layer][merge.sources] = True
        before = self._held[layer]
        heads = len(decision.candidates)
        held = np.broadcast_to(before, (heads, before.shape[1])) if len(before) == 1 else before
        safe = [
            np.setdiff1d(np.concatenate([held[min(head, len(held) - 1)], new_ids]), ids)
            for head, ids in enumerate(decision.candidates)
        ]
        self._protected[layer] = np.unique(np.concatenate(safe)) if safe else _NONE

    def _state(self, layer: int) -> npt.NDArray[np.int8]:
        state = np.zeros(len(self._came[layer]), np.int8)
        state[self._came[layer]] = TokenState.EVICTED
        state[self._merged[layer]] = TokenState.MERGED
        state[self._held[layer].ravel()] = TokenState.KEPT
        protected = self._protected[layer]
        state[protected[state[protected] == TokenState.KEPT]] = TokenState.PROTECTED
        return state


def _grown(mask: npt.NDArray[np.bool_], length: int) -> npt.NDArray[np.bool_]:
    out = np.zeros(length, np.bool_)
    out[: len(mask)] = mask
    return out
