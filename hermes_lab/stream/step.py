"""One feed step, from frames to the snapshot of what happened: encode, enter, prefill, observe, probe, decide, re-index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from hermes_lab.engine import finite
from hermes_lab.policies.base import Admission, LayerView, Need, Policy
from hermes_lab.retention import apply as pruning
from hermes_lab.retention import plain_answers, positions
from hermes_lab.retention import plan as decision
from hermes_lab.retention.calling import Seal, call
from hermes_lab.retention.change import StepNotes
from hermes_lab.retention.checks import Candidates, budgets_of, check_observed
from hermes_lab.retention.positions import PositionRule
from hermes_lab.retention.views import Evidence, views_of
from hermes_lab.segment import Segment
from hermes_lab.snapshot import AttentionSummary, LayerDecision, Snapshot, Timings
from hermes_lab.stream import default_budget, evidence
from hermes_lab.stream.entering import Entering, enter
from hermes_lab.stream.frame_size import frame_size
from hermes_lab.stream.run import Run
from hermes_lab.stream.state import StreamState

_BEYOND = "positions beyond the model's limit"


def encode(
    run: Run, images: Sequence[npt.NDArray[np.uint8]], times_s: Sequence[float]
) -> tuple[Segment, float]:
    """Frames as decoder inputs, and the seconds that encoding took."""
    started = run.clock()
    # what is kept for replay must serve any policy
    saliency = Need.SALIENCY in run.policy.needs or run.keep_visual
    chunk = run.engine.adapter.encode(images, times_s, want_saliency=saliency)
    return chunk, run.clock() - started


def take_step(run: Run, stream: StreamState, chunk: Segment, encode_s: float = 0.0) -> Snapshot:
    """Feed an encoded chunk to the stream, and let the policy decide.

    The stream is half changed where this raises: `StreamState.mark` puts it back.

    Raises:
        PolicyError: the policy broke its contract.
        ModelError: the model's activations are not finite.
    """
    first_frame = stream.frames_seen
    watch = _Watch(run)
    entering = enter(run, stream, chunk)
    changes, limit = StepNotes(stream.protected), run.engine.position_limit
    if positions.due_before(run.positions, stream.cache.states, limit, entering.segment):
        _reindex(run, stream, changes)
    decide_s = watch.lap()
    read = Evidence.empty(run.engine.layers)
    summaries = evidence.prefill(run, stream, entering, read)
    prefill_s = watch.lap()
    if entering.admission is not None and entering.admission.terms:
        _carry_terms(stream, entering.admission, len(entering.ids))
    changes.came(entering.ids, stream.cache.states)
    with finite.blame(run.engine.adapter, stream.cache, run.board):
        _observe(run, stream, read)
    decide_s += watch.lap()
    budgets = budgets_of(run.policy, run.engine.layers)
    decisions: tuple[LayerDecision, ...] = ()
    probe_s = 0.0
    if budgets is not None and _is_due(run, stream, entering, budgets):
        summaries += evidence.guide(run, stream, read)
        probe_s = watch.lap()
        with finite.blame(run.engine.adapter, stream.cache, run.board):
            decisions = _decide(run, stream, read, budgets, changes)
    if positions.due(run.positions, stream.cache.states, limit, bool(decisions)):
        _reindex(run, stream, changes)
    decide_s += watch.lap()
    notes = (*run.notes, *_beyond(run, stream), *_judge_budget(run, stream, entering, budgets))
    snapshot = _snapshot(
        stream, first_frame, entering, decisions, summaries, budgets, changes,
        Timings(encode_s, prefill_s, probe_s, decide_s), notes,
    )  # fmt: skip
    stream.step += 1
    return snapshot


@dataclass
class _Watch:
    """Seconds from lap to lap."""

    run: Run

    def __post_init__(self) -> None:
        self._since = self.run.clock()

    def lap(self) -> float:
        """Seconds since the last lap."""
        since, self._since = self._since, self.run.clock()
        return self._since - since


def _snapshot(
    stream: StreamState, first_frame: int, entering: Entering, decisions: tuple[LayerDecision, ...],
    summaries: Sequence[AttentionSummary], budgets: Sequence[int] | None, changes: StepNotes,
    timings: Timings, notes: tuple[str, ...],
) -> Snapshot:  # fmt: skip
    states = stream.cache.states
    return Snapshot(
        step=stream.step,
        frames=tuple(range(first_frame, stream.frames_seen)),
        frames_seen=stream.frames_seen,
        tokens_seen=stream.tokens_seen,
        time_s=stream.now_s,
        new_ids=entering.ids,
        held=changes.held(states),
        positions=changes.positions(states),
        decisions=decisions,
        attention=tuple(summaries),
        budget_tokens=None if budgets is None else tuple(budgets),
        cache_bytes=stream.cache.bytes,
        archive_bytes=stream.cache.archive_bytes,
        reindexed=tuple(sorted(changes.moved)),
        timings=timings,
        notes=notes,
        changes=changes.changes(states, decisions),
    )


# --- the decision --------------------------------------------------------------------------------
def _carry_terms(stream: StreamState, admission: Admission, new: int) -> None:
    """Put a gate's terms beside the tokens that it let in."""
    for holder in stream.cache.stream_layers:
        terms = {n: v[admission.keep.to(v.device)][None] for n, v in admission.terms.items()}
        fresh = holder.state.carry(terms, holder.state.tokens - new)
        merged = dict(holder.state.carried)
        for name, value in fresh.carried.items():
            old = merged.get(name)
            merged[name] = value if old is None else torch.where(value.isnan(), old, value)
        holder.state = replace(fresh, carried=merged)


def _views(
    run: Run, stream: StreamState, read: Evidence, budgets: Sequence[int] | None
) -> list[LayerView]:
    return views_of(
        run.engine, stream, stream.cache.states,
        policy=run.policy, evidence=read, seed=run.seed, budgets=budgets,
    )  # fmt: skip


def _observe(run: Run, stream: StreamState, read: Evidence) -> None:
    """Let the policy note something beside each token, decision or not."""
    policy = run.policy
    if type(policy).observe is Policy.observe:
        return
    for layer, view in enumerate(_views(run, stream, read, None)):
        known, shown = Candidates.of(view), [Seal(view)]
        named = call(policy, "observe", layer, lambda view=view: policy.observe(view), shown)
        named = check_observed(policy, known, named)
        holder = stream.cache.stream_layers[layer]
        holder.state = holder.state.carry(named, stream.protected)


def _is_due(run: Run, stream: StreamState, entering: Entering, budgets: Sequence[int]) -> bool:
    """Whether the policy decides in this step."""
    held = stream.held_tokens
    stream.bound |= default_budget.is_exceeded(budgets, held)
    reads_chunk = run.policy.needs & {Need.CHUNK_ATTENTION, Need.RECEIVED_ATTENTION}
    readable = len(entering.ids) > 0 or not reads_chunk
    return readable and plain_answers.due(run.policy, held, budgets)


def _decide(
    run: Run, stream: StreamState, read: Evidence, budgets: Sequence[int], changes: StepNotes
) -> tuple[LayerDecision, ...]:
    views = _views(run, stream, read, budgets)
    plans = decision.plan(run.policy, views, budgets, stream.cache.states)
    return pruning.apply(plans, stream, run.policy, run.next_position, changes)


def _judge_budget(
    run: Run, stream: StreamState, entering: Entering, budgets: Sequence[int] | None
) -> tuple[str, ...]:
    """Say once, and again when frames change their size, that a budget is smaller than a frame."""
    size = frame_size(entering.segment, run.frames_per_group)
    if size is None or stream.judged == stream.frame_size:
        return ()
    notes = default_budget.too_small(budgets, size)
    stream.judged = stream.frame_size
    stream.budget_notes += notes
    return notes


# --- positions -----------------------------------------------------------------------------------
def _reindex(run: Run, stream: StreamState, changes: StepNotes) -> None:
    """Move tokens up by the position rule."""
    for layer, holder in enumerate(stream.cache.stream_layers):
        before = holder.state
        holder.state = positions.reindex(
            run.positions, before, layer, run.engine.rope, stream.protected
        )
        if holder.state is not before:
            changes.moved.add(layer)


def _beyond(run: Run, stream: StreamState) -> tuple[str, ...]:
    """A note, once per stream, that positions have left the range that the model was made for."""
    limit = run.engine.position_limit
    furthest = max(state.cursor.next for state in stream.cache.states)
    if furthest <= limit or _BEYOND in stream.said:
        return ()
    stream.said |= {_BEYOND}
    keeps = run.positions is PositionRule.KEEP
    advice = "choose positions='lazy'" if keeps else "lower the budget"
    return (
        f"From this step on tokens stand beyond the {limit} positions the model was made for, and answers "
        f"may get worse; {advice}.",
    )
