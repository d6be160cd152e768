"""Who came into a layer and left it, and when: told step by step, in one pass over the parts for all layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief
from hermes_lab.recording.changes import StepChanges
from hermes_lab.recording.decisions import read_merges
from hermes_lab.recording.first_format import PackedRows, StepDiff
from hermes_lab.recording.parts import Part
from hermes_lab.recording.state import IntArray
from hermes_lab.recording.steps import Diff, read_diff

if TYPE_CHECKING:
    from hermes_lab.recording.reader import Recording

SmallArray = npt.NDArray[np.int32]  # ids and indices of steps; a long stream has millions of them

Ids = npt.NDArray[np.integer[Any]]

STILL = int(np.iinfo(np.int32).max)  # "left" of a token that is still held


@dataclass(frozen=True, repr=False)
class LayerChronicle(Brief):
    """Who came and left one layer; a token that leaves and comes again has one entry for each stay.

    Where parts of the recording are missing, what came and went meanwhile is dated to the first step behind the gap.

    Attributes:
        ids, head: of each stay, in order of arrival, [stay].
        entered, left: indices of steps; `left` is `STILL` while held, and equals `entered` for a token that was
            evicted in the step in which it came, [stay].
        merged: for each merge, step index, synthesised id and source id, [source, 3].
        decided: indices of the steps in which the layer decided, ascending, [decision].
        protected: ids that were there but not up for eviction, one array a decision.
        heads: heads after each step, [step].
    """

    ids: SmallArray
    head: npt.NDArray[np.uint16]
    entered: SmallArray
    left: SmallArray
    merged: IntArray
    decided: IntArray
    protected: tuple[SmallArray, ...]
    heads: IntArray

    def held(self, index: int) -> SmallArray:
        """Ids held after a step, once for each head that holds them, [held]."""
        return self.ids[(self.entered <= index) & (index < self.left)]


def chronicles(recording: Recording, layers: Sequence[int]) -> list[LayerChronicle]:
    """The chronicles of some layers, each part read once.

    Raises:
        ValueError, IndexError: parts contradict each other.
    """
    found = {layer: _Chronicler(len(recording.tokens)) for layer in layers}
    for index, part in enumerate(recording.step_parts):
        if index in recording.restarts:
            held = recording.before(index).held
            for layer, one in found.items():
                if layer < len(held):
                    one.jump(index, held[layer])
        diff = recording.read(part, lambda p: read_diff(p, positions=False))
        for layer, one in found.items():
            one.follow(index, layer, diff)
        if isinstance(diff, StepChanges):
            recording.read(
                part, lambda p, index=index, diff=diff: _tell_decisions(index, p, diff, found)
            )
        else:
            recording.read(part, lambda p, index=index: _tell_old_decisions(index, p, found))
    told: list[LayerChronicle] = []
    for layer in layers:
        told.append(found.pop(layer).told(told[-1] if told else None))
    return told


class _Stays:
    """Columns that grow, and which stay of a token is its latest."""

    def __init__(self, tokens: int) -> None:
        self.count = 0
        self.columns: dict[str, npt.NDArray[Any]] = {
            # most tokens come once: then this is all the room that is ever needed
            name: np.empty(tokens, np.uint16 if name == "head" else np.int32)
            for name in ("ids", "head", "entered", "left")
        }
        self._tokens = tokens
        self._latest: dict[int, SmallArray] = {}

    def come(self, index: int, head: int, ids: Ids) -> None:
        self.check(ids)
        start, end = self.count, self.count + len(ids)
        values = {"ids": ids, "head": head, "entered": index, "left": STILL}
        for name, value in values.items():
            column = self.columns[name]
            if end > len(column):
                grown = np.empty(max(end, len(column) * 3 // 2), column.dtype)
                grown[:start] = column[:start]
                self.columns[name] = column = grown
            column[start:end] = value
        self._latest_of(head)[ids] = np.arange(start, end, dtype=np.int32)
        self.count = end

    def go(self, index: int, head: int, ids: Ids) -> None:
        self.check(ids)
        stays = self._latest_of(head)[ids]
        if (stays < 0).any():
            raise ValueError(f"a token leaves in the step with index {index} that never came")
        self.columns["left"][stays] = index

    def check(self, ids: Ids) -> None:
        """Refuse ids that no token has."""
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self._tokens:
            raise ValueError(f"ids from {ids.min()} to {ids.max()} where {self._tokens} are given")

    def now(self, head: int) -> SmallArray:
        """Ids that a head holds, ascending."""
        ids, heads, left = (self.columns[name][: self.count] for name in ("ids", "head", "left"))
        return np.sort(ids[(heads == head) & (left == STILL)])

    def _latest_of(self, head: int) -> SmallArray:
        if head not in self._latest:
            self._latest[head] = np.full(self._tokens, -1, np.int32)
        return self._latest[head]


class _Chronicler:
    """One layer's chronicle in the making."""

    def __init__(self, tokens: int) -> None:
        self._merged: list[tuple[int, int, int]] = []
        self._decided: list[int] = []
        self._protected: list[SmallArray] = []
        self._stays = _Stays(tokens)
        self._heads = 1
        self._heads_after: list[int] = []

    def follow(self, index: int, layer: int, diff: Diff) -> None:
        """One step."""
        stays, heads = self._stays, diff.heads[layer]
        if heads != self._heads:  # a shared set becomes one set a head, or the other way round
            if self._heads == 1:
                shared = stays.now(0)
                for head in range(1, heads):
                    stays.come(index, head, shared)
            else:
                self._leave(index)
        self._heads = heads
        self._heads_after.append(heads)
        for head in range(heads):
            stays.come(index, head, diff.new_ids)
            came, gone = self._differences(layer, head, diff)
            stays.come(index, head, came)
            stays.go(index, head, gone)

    def _differences(self, layer: int, head: int, diff: Diff) -> tuple[Ids, Ids]:
        """Who came and went in one head besides the tokens that arrived."""
        if isinstance(diff, StepDiff):
            row = diff.held(layer, head)
            return row.extra, row.missing
        if diff.whole is None:
            return diff.added[layer], diff.evicted[layer][head]
        now, held = self._stays.now(head), diff.whole.held[layer][head]
        return np.setdiff1d(held, now), np.setdiff1d(now, held)

    def jump(self, index: int, held: IntArray) -> None:
        """Steps are missing, and behind them `held` [head, token] is what the layer held."""
        if len(held) != self._heads:
            self._leave(index)
        for head, ids in enumerate(held):
            now = self._stays.now(head)
            self._stays.go(index, head, np.setdiff1d(now, ids))
            self._stays.come(index, head, np.setdiff1d(ids, now))
        self._heads = len(held)

    def decide(self, index: int, protected: IntArray) -> None:
        """The layer decided, and these tokens were not up for it."""
        self._stays.check(protected)
        self._decided.append(index)
        self._protected.append(protected.astype(np.int32))

    def merge(self, index: int, into: int, sources: Ids) -> None:
        """A token was made of others."""
        self._stays.check(sources)
        self._merged += [(index, into, source) for source in sources.tolist()]

    def _leave(self, index: int) -> None:
        for head in range(self._heads):
            self._stays.go(index, head, self._stays.now(head))

    def told(self, other: LayerChronicle | None) -> LayerChronicle:
        """The chronicle; columns that are as in another layer are shared with it."""
        columns: dict[str, npt.NDArray[Any]] = {}
        for name in list(self._stays.columns):
            column = self._stays.columns.pop(name)[: self._stays.count]
            theirs: npt.NDArray[Any] = column if other is None else getattr(other, name)
            same = other is not None and np.array_equal(theirs, column)
            columns[name] = theirs if same else column.copy()
        return LayerChronicle(
            **columns,
            merged=np.array(self._merged, np.int64).reshape(-1, 3),
            decided=np.array(self._decided, np.int64),
            protected=tuple(self._protected),
            heads=np.array(self._heads_after, np.int64),
        )


def _tell_decisions(
    index: int, part: Part, diff: StepChanges, layers: dict[int, _Chronicler]
) -> None:
    """What the decisions of one step say beyond who was evicted."""
    spared, sources = part.read("spared", "sources")
    record: dict[str, Any]
    start = source = 0
    for record in part.record["decisions"]:
        told, end = layers.get(record["layer"]), start + record["spared"]
        last = source + sum(count or 0 for _, count in record["merged"])
        if told is not None:
            told.decide(index, spared[start:end].astype(np.int64))
            for merge in read_merges(record, diff, sources[source:last]):
                told.merge(index, merge.id, merge.sources)
        start, source = end, last


def _tell_old_decisions(index: int, part: Part, layers: dict[int, _Chronicler]) -> None:
    """The same of a part of format 1."""
    counts, ids, sources = part.read("candidates.counts", "candidates.ids", "sources")
    rows = PackedRows(counts, ids)
    row = source = 0
    record: dict[str, Any]
    for record in part.record["decisions"]:
        told, heads = layers.get(record["layer"]), record["heads"]
        merged = [(owner, count) for owner, count in record["merged"]]
        if told is not None:
            missing = [rows[row + head].missing for head in range(heads)]
            told.decide(index, np.unique(np.concatenate(missing)))
            at = source
            for owner, count in merged:
                told.merge(index, owner, sources[at : at + count])
                at += count
        row += heads
        source += sum(count for _, count in merged)
