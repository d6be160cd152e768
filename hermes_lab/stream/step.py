"""One feed step: encode, admit, prefill, probe, decide, re-index - and the snapshot of what happened."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hermes_lab.engine import finite
from hermes_lab.engine.forward import Wants
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Admission, Arrival, LayerView, Need, Policy
from hermes_lab.retention import apply as pruning
from hermes_lab.retention import guidance, plain_answers, positions
from hermes_lab.retention import plan as decision
from hermes_lab.retention.calling import Seal, call
from hermes_lab.retention.checks import Candidates, budgets_of, check_admission, check_observed
from hermes_lab.retention.positions import PositionRule
from hermes_lab.retention.views import Evidence, views_of
from hermes_lab.segment import Segment, take
from hermes_lab.snapshot import AttentionSummary, LayerDecision, Snapshot, Timings
from hermes_lab.stream import default_budget
from hermes_lab.stream.state import Chunk
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession


_BEYOND = "positions beyond the model's limit"


@dataclass
class Step:
    """The work of `StreamSession.feed`, on the session's stream state."""

    session: StreamSession

    def run(self, images: Sequence[npt.NDArray[np.uint8]], times_s: Sequence[float]) -> Snapshot:
        """Encode frames and feed them."""
        session = self.session
        started = session._clock()
        segment = session.engine.adapter.encode(
            images,
            times_s,
            # what is kept for replay must serve any policy
            want_saliency=Need.SALIENCY in session.policy.needs or session.keep_visual,
        )
        return self.run_encoded(segment, session._clock() - started)

    def run_encoded(self, segment: Segment, encode_s: float) -> Snapshot:
        """Feed a chunk that is already encoded."""
        session, stream = self.session, self.session.stream
        self._settle_budget(segment)
        policy, engine, clock = session.policy, session.engine, session._clock
        layers = engine.layers
        frames = len(segment.time_s)
        first_frame = stream.frames_seen
        stream.frames_seen += frames
        stream.now_s = float(segment.time_s[-1])
        visual = (segment.role == Role.VISUAL) & (segment.frame == segment.frame.max())
        stream.tokens_per_frame = int(visual.sum())

        started = clock()
        admission = self._admit(segment, first_frame)
        admitted = np.arange(len(segment)) if admission is None else _indices(admission.keep)
        entering = segment if admission is None else _admitted(segment, admission, admitted)
        ids = self._name(entering, first_frame)
        self._keep_chunk(segment, ids, admitted, first_frame, frames)
        stream.tokens_seen += len(ids)
        decide_s = clock() - started

        started = clock()
        evidence = Evidence.empty(layers)
        summaries: list[AttentionSummary] = []
        self._prefill(entering, ids, evidence, summaries)
        prefill_s = clock() - started
        if admission is not None and admission.terms:
            self._carry_terms(admission, len(ids))

        started = clock()
        with finite.blame(engine.adapter, stream.cache, session.board):
            self._observe(policy, evidence)
        decide_s += clock() - started
        decisions: tuple[LayerDecision, ...] = ()
        probe_s = 0.0
        budgets = budgets_of(policy, layers)
        held = stream.held_tokens
        stream.bound |= default_budget.is_exceeded(budgets, held)
        readable = len(ids) or not policy.needs & {Need.CHUNK_ATTENTION, Need.RECEIVED_ATTENTION}
        if budgets is not None and readable and plain_answers.due(policy, held, budgets):
            started = clock()
            self._guide(policy, evidence, summaries)
            probe_s = clock() - started
            started = clock()
            with finite.blame(engine.adapter, stream.cache, session.board):
                decisions = self._decide(policy, evidence, budgets)
            decide_s += clock() - started
        started = clock()
        reindexed, notes = self._reindex(bool(decisions))
        decide_s += clock() - started
        notes += self._judge_budget(entering, budgets)

        snapshot = Snapshot(
            step=stream.step,
            frames=tuple(range(first_frame, first_frame + frames)),
            frames_seen=stream.frames_seen,
            tokens_seen=stream.tokens_seen,
            time_s=stream.now_s,
            new_ids=ids,
            held=tuple(
                state.ids[:, stream.protected :].cpu().numpy().copy()
                for state in stream.cache.states
            ),
            positions=tuple(
                state.positions[..., stream.protected :].cpu().numpy().copy()
                for state in stream.cache.states
            ),
            decisions=decisions,
            attention=tuple(summaries),
            budget_tokens=None if budgets is None else tuple(budgets),
            cache_bytes=stream.cache.bytes,
            archive_bytes=stream.cache.archive_bytes,
            reindexed=reindexed,
            timings=Timings(encode_s, prefill_s, probe_s, decide_s, session.record_s),
            notes=session.notes + notes,
        )
        stream.step += 1
        return snapshot

    # --- the budget --------------------------------------------------------------------------
    def _settle_budget(self, chunk: Segment) -> None:
        """Give a policy that needs a budget and has none its default, now that a chunk says what a frame takes."""
        session, stream = self.session, self.session.stream
        size = default_budget.frame_size(chunk, session.frames_per_group)
        stream.frame_size = size or stream.frame_size
        session.policy, notes = default_budget.settle(session.policy, stream)
        session.notes += notes
        stream.budget_notes += notes

    def _judge_budget(self, entering: Segment, budgets: Sequence[int] | None) -> tuple[str, ...]:
        """Say once, and again when frames change their size, that a budget is smaller than a frame."""
        stream = self.session.stream
        size = default_budget.frame_size(entering, self.session.frames_per_group)
        if size is None or stream.judged == stream.frame_size:
            return ()
        notes = default_budget.too_small(budgets, size)
        stream.judged = stream.frame_size
        stream.budget_notes += notes
        return notes

    # --- before the decoder ------------------------------------------------------------------
    def _admit(self, segment: Segment, first_frame: int) -> Admission | None:
        stream, policy = self.session.stream, self.session.policy
        if type(policy).admit is Policy.admit:
            return None
        adapter, device = self.session.engine.adapter, segment.embeds.device
        if not finite.all_finite(segment.embeds):
            finite.refuse(adapter, -1)

        def long(values: npt.NDArray[Any]) -> Tensor:
            return torch.as_tensor(values.astype(np.int64), device=device)

        def copied(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.clone()

        times = np.asarray(segment.time_s, np.float32)
        arrival = Arrival(  # of copies: the segment is the caller's, and kept for replay
            embeds=segment.embeds.clone(),
            features=copied(segment.features) if Need.FEATURES in policy.needs else None,
            saliency=copied(segment.saliency) if Need.SALIENCY in policy.needs else None,
            visual=long(np.flatnonzero(segment.role == Role.VISUAL)),
            frame=long(np.where(segment.frame < 0, -1, segment.frame + first_frame)),
            row=long(segment.row),
            col=long(segment.col),
            role=long(segment.role),
            time_s=torch.as_tensor(times[np.maximum(segment.frame, 0)], device=device),
            step=stream.step,
        )
        shown = [Seal(arrival)]
        admission = call(policy, "admit", None, lambda: policy.admit(arrival, stream.memory), shown)
        # what cannot be copied could be neither undone nor forked
        stream.memory = call(policy, "admit", None, lambda: copy.deepcopy(stream.memory))
        return check_admission(policy, admission, segment)

    def _name(self, segment: Segment, first_frame: int) -> npt.NDArray[np.int64]:
        stream = self.session.stream
        times = np.asarray(segment.time_s, np.float32)
        has_frame = segment.frame >= 0
        return stream.table.append(
            len(segment),
            role=segment.role,
            frame=np.where(has_frame, segment.frame + first_frame, -1),
            time_s=np.where(has_frame, times[np.maximum(segment.frame, 0)], np.nan),
            row=segment.row,
            col=segment.col,
            step=stream.step,
        )

    def _keep_chunk(
        self,
        segment: Segment,
        ids: npt.NDArray[np.int64],
        admitted: npt.NDArray[np.int64],
        first_frame: int,
        frames: int,
    ) -> None:
        """Keep the chunk as encoded as long as the policy, or a replay, may need it."""
        session, stream = self.session, self.session.stream
        wanted = plain_answers.read_plan(session.policy).recent_frames
        if not session.keep_visual and not wanted:
            return
        names = np.full(len(segment), -1, np.int64)
        names[admitted] = ids
        chunk = Chunk(segment, tuple(names.tolist()), first_frame, frames)
        chunks = (*stream.chunks, chunk)
        if not session.keep_visual:
            oldest = stream.frames_seen - wanted
            chunks = tuple(c for c in chunks if c.first_frame + c.frames > oldest)
        stream.chunks = chunks

    # --- through the decoder -----------------------------------------------------------------
    def _prefill(
        self,
        segment: Segment,
        ids: npt.NDArray[np.int64],
        evidence: Evidence,
        summaries: list[AttentionSummary],
    ) -> None:
        session, stream, policy = self.session, self.session.stream, self.session.policy
        if not len(segment):  # admission let nothing in; the video's clock goes on all the same
            for holder in stream.cache.stream_layers:
                holder.state = replace(holder.state, cursor=holder.state.cursor.place(segment)[1])
            return
        evidence.new_tokens = len(segment)
        wants = Wants(knockouts=tuple(session.knockouts), board=session.board)
        last = min(stream.tokens_per_frame or len(segment), len(segment))
        summarizer = session._summarizer("chunk") if session.record_level != "off" else None
        wants_rows = Need.CHUNK_ATTENTION in policy.needs
        if wants_rows or summarizer is not None:
            window = (plain_answers.window(policy) if wants_rows else None) or last
            rows = slice(max(len(segment) - window, 0), len(segment))

            def on_rows(layer: int, pattern: Tensor) -> None:
                if wants_rows:
                    shown = guidance.average(pattern, policy.attention_detail)
                    if not session.board.quiet:  # a hook may have kept this very tensor
                        shown = shown.clone()
                    evidence.attention[layer]["chunk"] = shown
                if summarizer is not None:
                    summarizer.add(layer, pattern[..., : pattern.shape[-1] - len(segment)])

            wants = replace(wants, rows=rows, on_rows=on_rows)
        if Need.RECEIVED_ATTENTION in policy.needs:

            def on_received(layer: int, received: Tensor) -> None:
                evidence.received[layer] = received

            wants = replace(wants, on_received=on_received)
        engine = session.engine
        hidden = engine.forward(stream.cache, segment, "chunk", torch.as_tensor(ids), wants)
        finite.check_pass(engine.adapter, hidden, stream.cache.states, session.board)
        if summarizer is not None:
            summaries.append(summarizer.summary())

    def _carry_terms(self, admission: Admission, new: int) -> None:
        for holder in self.session.stream.cache.stream_layers:
            terms = {n: v[admission.keep.to(v.device)][None] for n, v in admission.terms.items()}
            fresh = holder.state.carry(terms, holder.state.tokens - new)
            merged = dict(holder.state.carried)
            for name, value in fresh.carried.items():
                old = merged.get(name)
                merged[name] = value if old is None else torch.where(value.isnan(), old, value)
            holder.state = replace(fresh, carried=merged)

    # --- the decision --------------------------------------------------------------------------
    def _views(self, evidence: Evidence, budgets: Sequence[int] | None) -> list[LayerView]:
        session, stream = self.session, self.session.stream
        return views_of(
            session.engine, stream, stream.cache.states,
            policy=session.policy, evidence=evidence, seed=session.seed, budgets=budgets,
        )  # fmt: skip

    def _observe(self, policy: Policy, evidence: Evidence) -> None:
        stream = self.session.stream
        if type(policy).observe is Policy.observe:
            return
        for layer, view in enumerate(self._views(evidence, None)):
            known, shown = Candidates.of(view), [Seal(view)]
            named = call(policy, "observe", layer, lambda view=view: policy.observe(view), shown)
            named = check_observed(policy, known, named)
            holder = stream.cache.stream_layers[layer]
            holder.state = holder.state.carry(named, stream.protected)

    def _guide(self, policy: Policy, evidence: Evidence, summaries: list[AttentionSummary]) -> None:
        session, stream, engine = self.session, self.session.stream, self.session.engine
        if not {Need.GUIDANCE, Need.QUERIES} & policy.needs:
            return
        wanted = plain_answers.guidance(policy, stream.history)
        if any(g.kind == "question" for g in wanted) and not session.future_question:
            raise PolicyError(
                f"Policy {policy.name!r} needs the future question, and none was announced; "
                "set `session.future_question` in an evaluation."
            )
        prompts = guidance.segments_for(engine, wanted, session.future_question)
        record = session.record_level != "off"
        collected = {n: session._summarizer(f"guidance:{n}") for n in prompts} if record else {}

        def on_rows(name: str, layer: int, rows: Tensor) -> None:
            evidence.attention[layer][name] = guidance.average(rows, policy.attention_detail)
            if name in collected:
                collected[name].add(layer, rows)

        def on_queries(name: str, layer: int, queries: Tensor) -> None:
            evidence.queries[layer][name] = queries

        def reads(name: str, layer: int) -> bool:
            # whoever records whole rows gets those of every layer
            return session.record_level == "rows" or plain_answers.reads(
                policy, name, layer, engine.layers
            )

        wants_queries = Need.QUERIES in policy.needs
        guidance.read(
            engine,
            stream.cache,
            prompts,
            on_rows,
            on_queries if wants_queries else None,
            reads=reads,
        )
        for name, (prompt, _) in prompts.items():
            read = [(n, rows[name]) for n, rows in enumerate(evidence.attention) if name in rows]
            finite.check_rows(engine.adapter, read, apart=prompt.reading == "raw_embedding")
        summaries.extend(c.summary() for c in collected.values())

    def _decide(
        self, policy: Policy, evidence: Evidence, budgets: Sequence[int]
    ) -> tuple[LayerDecision, ...]:
        stream = self.session.stream
        states = stream.cache.states
        plans = decision.plan(policy, self._views(evidence, budgets), budgets, states)
        return pruning.apply(plans, stream, policy, self.session.next_position)

    def _reindex(self, decided: bool) -> tuple[tuple[int, ...], tuple[str, ...]]:
        session, stream = self.session, self.session.stream
        rule, limit = session.positions, session.engine.position_limit
        moved: list[int] = []
        if positions.due(rule, stream.cache.states, limit, decided):
            for layer, holder in enumerate(stream.cache.stream_layers):
                before = holder.state
                holder.state = positions.reindex(
                    rule, before, layer, session.engine.rope, stream.protected
                )
                if holder.state is not before:
                    moved.append(layer)
        return tuple(moved), self._beyond(rule, limit)

    def _beyond(self, rule: PositionRule, limit: int) -> tuple[str, ...]:
        """A note, once per stream, that positions have left the range that the model was made for."""
        stream = self.session.stream
        furthest = max(state.cursor.next for state in stream.cache.states)
        if furthest <= limit or _BEYOND in stream.said:
            return ()
        stream.said |= {_BEYOND}
        advice = "choose positions='lazy'" if rule is PositionRule.KEEP else "lower the budget"
        return (
            f"From this step on tokens stand beyond the {limit} positions the model was made for, and answers "
            f"may get worse; {advice}.",
        )


def _indices(keep: Tensor) -> npt.NDArray[np.int64]:
    return keep.cpu().numpy().astype(np.int64)


def _admitted(segment: Segment, admission: Admission, index: npt.NDArray[np.int64]) -> Segment:
    """The tokens of a chunk that a policy let in, at the positions they had."""
    part = take(segment, index)
    return part if admission.embeds is None else replace(part, embeds=admission.embeds)
