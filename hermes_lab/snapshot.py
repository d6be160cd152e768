"""What one step of a stream did, frozen: the only thing that recordings, figures and the dashboard read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief, brief, bytes_text
from hermes_lab.frozen import Frozen
from hermes_lab.later import on_sight

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
UNBOUNDED = 2**31 - 1  # a layer's budget where the limit is not in tokens


@dataclass(frozen=True, repr=False)
class MergeRecord(Brief):
    """One synthesised token: its global id and the global ids that went into it."""

    id: int
    sources: IntArray


@dataclass(frozen=True, repr=False)
class LayerDecision(Brief):
    """One compression of one layer; `head` is 1 where all KV heads share one set.

    Attributes:
        candidates: global ids that could have been evicted, [head, token].
        kept: mask over candidates, [head, token].
        scores: final score of each candidate, [head, token].
        terms: named parts of the score, each [head, token].
        merged: synthesised tokens.
        budget_tokens: what the layer was allowed to hold.
    """

    layer: int
    candidates: IntArray
    kept: npt.NDArray[np.bool_]
    scores: FloatArray
    terms: Mapping[str, FloatArray] = field(default_factory=Frozen[str, FloatArray])
    merged: tuple[MergeRecord, ...] = ()
    budget_tokens: int = 0

    @property
    def evicted(self) -> IntArray:
        """Global ids evicted in every head that held them, sorted, [evicted]."""
        survivors = np.unique(self.candidates[self.kept])
        return np.setdiff1d(np.unique(self.candidates), survivors)


@dataclass(frozen=True, repr=False)
class LayerChange(Brief):
    """What one step changed in what a layer holds; `head` is 1 where all KV heads share one set.

    After the step a layer holds what it held before and then `arrived`, less `evicted`, and then `added`: in this
    order, or as `order` says.

    Attributes:
        arrived: ids that came, [token].
        arrived_at: positions that they were given, [axis, token].
        evicted: ids that went, ascending, [head, token].
        added: ids of the tokens that the policy's `merge` made, [token].
        added_at: their positions, [axis, token].
        order: where made tokens were put between others: all ids as they then stood, [head, token]; else [head, 0].
        moved: ids that were given new positions (all of the layer, in their order, where positions were compacted),
            [head, token].
        moved_to: these positions, [head, axis, token].
    """

    arrived: IntArray
    arrived_at: IntArray
    evicted: IntArray
    added: IntArray
    added_at: IntArray
    order: IntArray
    moved: IntArray
    moved_to: IntArray


@dataclass(frozen=True, repr=False)
class AttentionSummary(Brief):
    """Attention of one group of queries on the cache, reduced at capture.

    All values are means over the group's query rows of post-softmax attention. In layers where the group was not
    read (a policy's guidance is read where its decision uses it), `visible` and masses are 0, the others NaN.

    Attributes:
        group: "question", "guidance:<name>" or "chunk".
        frame_mass: mass on the tokens of each frame, [layer, query_head, frame] (evicted frames: 0).
        role_mass: mass by `Role`, [layer, query_head, role].
        entropy: entropy in nats, [layer, query_head].
        visible: keys that the last row could see, [layer].
        sink_share: mass on the first cached token, [layer, query_head].
        age_s: mean age of attended video, weighted by attention, [layer, query_head].
        rows: full rows where asked for: layer -> [query_head, row, token], beside `row_ids`.
        row_ids: layer -> global ids of the tokens of `rows`, [head, token].
    """

    group: str
    frame_mass: FloatArray
    role_mass: FloatArray
    entropy: FloatArray
    visible: IntArray
    sink_share: FloatArray
    age_s: FloatArray
    rows: Mapping[int, FloatArray] = field(default_factory=Frozen[int, FloatArray])
    row_ids: Mapping[int, IntArray] = field(default_factory=Frozen[int, IntArray])


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of the parts of one feed step; `record_s` is what writing the step before took."""

    encode_s: float = 0.0
    prefill_s: float = 0.0
    probe_s: float = 0.0
    decide_s: float = 0.0
    record_s: float = 0.0


@dataclass(frozen=True, repr=False)
class Snapshot:
    """The state of a stream after one feed step.

    `held`, `positions` and `changes` of a running stream are copied from the device when somebody looks at them.

    Attributes:
        step: 0-based number of the feed step.
        frames: global indices of the frames fed in this step.
        frames_seen, tokens_seen: totals so far (tokens: video tokens that entered the cache).
        time_s: presentation time of the newest frame.
        new_ids: global ids that entered in this step, [token].
        held: per layer, the global ids of the video tokens now cached, [head, token].
        positions: per layer, their rotary positions, [head, axis, token].
        decisions: one per layer that decided in this step.
        attention: reduced attention of what was probed in this step.
        budget_tokens: per layer, `UNBOUNDED` in those whose limit is not in tokens; None without limit.
        cache_bytes: bytes of keys and values over all layers (archive excluded).
        archive_bytes: bytes in the off-device store.
        reindexed: layers whose positions were compacted in this step.
        notes: sentences a person should read (policy changed, position limit passed, ...).
        changes: what the step changed, one entry per layer; empty where nobody told (a snapshot made by hand).
    """

    step: int
    frames: tuple[int, ...]
    frames_seen: int
    tokens_seen: int
    time_s: float
    new_ids: IntArray
    held: tuple[IntArray, ...]
    positions: tuple[IntArray, ...]
    decisions: tuple[LayerDecision, ...]
    attention: tuple[AttentionSummary, ...]
    budget_tokens: tuple[int, ...] | None
    cache_bytes: int
    archive_bytes: int = 0
    reindexed: tuple[int, ...] = ()
    timings: Timings = Timings()
    notes: tuple[str, ...] = ()
    changes: tuple[LayerChange, ...] = ()

    def amended(self, **values: Any) -> Self:
        """A copy with other values of some fields, made without looking at the rest (as `replace` would)."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__ | values)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __repr__(self) -> str:
        return f"Snapshot({self.headline()})"

    def headline(self) -> str:
        """What happened in this step, in one line."""
        came = f"{len(self.frames)} frames" if len(self.frames) != 1 else "1 frame"
        counts = {int(ids.shape[-1]) for ids in self.held} or {0}
        held = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        words = [
            f"step {self.step}",
            f"{came}, {self.frames_seen} so far",
            f"{self.time_s:.1f} s",
            f"{len(self.held)} layers hold {held} tokens each",
            bytes_text(self.cache_bytes),
        ]
        if self.decisions:
            gone = sum(int((~d.kept).sum()) // max(len(d.kept), 1) for d in self.decisions)
            words.insert(4, f"{len(self.decisions)} layers evicted {gone} tokens")
        if self.notes:
            words.append(f"{len(self.notes)} notes" if len(self.notes) > 1 else "1 note")
        return ", ".join(words)

    def _repr_html_(self) -> str:
        from hermes_lab.snapshot_html import picture

        return picture(self)


on_sight(Snapshot, "held", "positions", "changes")


@dataclass(frozen=True, repr=False)
class Answer:
    """One answered question; the cache is as it was before.

    Attributes:
        question, text: what was asked and the decoded answer.
        token_ids: generated ids, the end token included.
        step, time_s: where the stream stood.
        ttft_s: seconds from the call to the first generated token.
        tpot_s: mean seconds per further token, NaN for one-token answers.
        first_logits: logits of the first generated token, [vocabulary].
        top: the most likely first tokens as (text, probability).
        attention: reduced attention of the question's tokens, where recorded.
        attended_tokens: tokens that the question could see, per layer.
        cache_bytes: bytes of the cache that was read.
    """

    question: str
    text: str
    token_ids: tuple[int, ...]
    step: int
    time_s: float
    ttft_s: float
    tpot_s: float
    first_logits: FloatArray
    top: tuple[tuple[str, float], ...] = ()
    attention: AttentionSummary | None = None
    attended_tokens: tuple[int, ...] = ()
    cache_bytes: int = 0
    extra: Mapping[str, Any] = field(default_factory=Frozen[str, Any])

    def __repr__(self) -> str:
        took = f"TTFT {1000 * self.ttft_s:.1f} ms"
        return (
            f"Answer({brief(self.question)} -> {brief(self.text)}, at {self.time_s:.1f} s, "
            f"{len(self.token_ids)} tokens, {took})"
        )
