"""What a policy, and the recorder, read of a step: the chunk's own attention and that of guidance prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hermes_lab.engine import finite
from hermes_lab.engine.passes import Wants
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Need
from hermes_lab.retention import guidance, plain_answers
from hermes_lab.retention.views import Evidence
from hermes_lab.snapshot import AttentionSummary
from hermes_lab.stream.entering import Entering
from hermes_lab.stream.run import Run
from hermes_lab.stream.state import StreamState
from hermes_lab.stream.summaries import Summarizer


def prefill(
    run: Run, stream: StreamState, entering: Entering, evidence: Evidence
) -> list[AttentionSummary]:
    """Feed a chunk's tokens to the decoder, and read what is wanted of their attention on the way.

    Raises:
        ModelError: the model's activations are not finite.
    """
    segment = entering.segment
    if not len(segment):  # admission let nothing in; the video's clock goes on all the same
        for holder in stream.cache.stream_layers:
            holder.state = replace(holder.state, cursor=holder.state.cursor.place(segment)[1])
        return []
    evidence.new_tokens = len(segment)
    summarizer = run.summarizer("chunk", stream) if run.records else None
    wants = _chunk_rows(run, stream, len(segment), evidence, summarizer)
    if Need.RECEIVED_ATTENTION in run.policy.needs:

        def on_received(layer: int, received: Tensor) -> None:
            evidence.received[layer] = received

        wants = replace(wants, on_received=on_received)
    engine = run.engine
    hidden = engine.forward(stream.cache, segment, "chunk", torch.as_tensor(entering.ids), wants)
    finite.check_pass(engine.adapter, hidden, stream.cache.states, run.board)
    return [] if summarizer is None else [summarizer.summary()]


def _chunk_rows(
    run: Run, stream: StreamState, new: int, evidence: Evidence, summarizer: Summarizer | None
) -> Wants:
    """The pass, with the rows of the chunk's last queries where policy or recorder want them."""
    policy, wants = run.policy, run.wants()
    wanted = Need.CHUNK_ATTENTION in policy.needs
    if not wanted and summarizer is None:
        return wants
    last = min(stream.tokens_per_frame or new, new)
    window = (plain_answers.window(policy) if wanted else None) or last

    def on_rows(layer: int, pattern: Tensor) -> None:
        if wanted:
            shown = guidance.average(pattern, policy.attention_detail)
            if not run.board.quiet:  # a hook may have kept this very tensor
                shown = shown.clone()
            evidence.attention[layer]["chunk"] = shown
        if summarizer is not None:
            summarizer.add(layer, pattern[..., : pattern.shape[-1] - new])

    return replace(wants, rows=slice(max(new - window, 0), new), on_rows=on_rows)


def guide(run: Run, stream: StreamState, evidence: Evidence) -> list[AttentionSummary]:
    """Read the policy's guidance prompts over the cache; the cache stays as it is.

    Raises:
        PolicyError: the policy needs the future question, and none was announced.
        ModelError: the model's activations are not finite.
    """
    policy, engine = run.policy, run.engine
    if not {Need.GUIDANCE, Need.QUERIES} & policy.needs:
        return []
    wanted = plain_answers.guidance(policy, stream.history)
    if any(g.kind == "question" for g in wanted) and not run.future_question:
        raise PolicyError(
            f"Policy {policy.name!r} needs the future question, and none was announced; "
            "set `session.future_question` in an evaluation."
        )
    prompts = guidance.segments_for(engine, wanted, run.future_question)
    collected = {n: run.summarizer(f"guidance:{n}", stream) for n in prompts} if run.records else {}
    guidance.read(
        engine,
        stream.cache,
        prompts,
        _row_listener(run, evidence, collected),
        _query_listener(evidence) if Need.QUERIES in policy.needs else None,
        # a recording of whole rows has those of every layer
        reads=lambda name, layer: (
            run.record_level == "rows" or plain_answers.reads(policy, name, layer, engine.layers)
        ),
    )
    for name, (prompt, _) in prompts.items():
        read = [(n, rows[name]) for n, rows in enumerate(evidence.attention) if name in rows]
        finite.check_rows(engine.adapter, read, apart=prompt.reading == "raw_embedding")
    return [summarizer.summary() for summarizer in collected.values()]


def _row_listener(
    run: Run, evidence: Evidence, collected: dict[str, Summarizer]
) -> Callable[[str, int, Tensor], None]:
    def on_rows(name: str, layer: int, rows: Tensor) -> None:
        evidence.attention[layer][name] = guidance.average(rows, run.policy.attention_detail)
        if name in collected:
            collected[name].add(layer, rows)

    return on_rows


def _query_listener(evidence: Evidence) -> Callable[[str, int, Tensor], None]:
    def on_queries(name: str, layer: int, queries: Tensor) -> None:
        evidence.queries[layer][name] = queries

    return on_queries
