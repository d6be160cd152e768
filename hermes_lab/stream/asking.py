"""Questions to a session: the turn is prefilled beside the stream, the answer decoded, and all of it measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from hermes_lab.engine.forward import Engine, Wants
from hermes_lab.errors import LabError
from hermes_lab.snapshot import Answer
from hermes_lab.stream import arguments, reading
from hermes_lab.stream.state import StreamState
from hermes_lab.stream.summaries import Summarizer

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession


def answer(
    session: StreamSession,
    question: str,
    *,
    max_new_tokens: int,
    remember: bool,
    attention: bool | None,
    on_token: Callable[[str], None] | None,
    top: int,
) -> Answer:
    """The work of `StreamSession.ask`, which describes the arguments."""
    started = session._clock()
    check(question, max_new_tokens)
    arguments.flags(
        remember=remember, attention=bool(attention) if attention is None else attention
    )
    if on_token is not None and not callable(on_token):
        raise LabError(f"on_token must be a function of a text, got {arguments.told(on_token)}.")
    top = arguments.whole_number("top", top, least=0)
    engine, stream = session.engine, _beside(session)
    wanted = session.record_level != "off" if attention is None else attention
    summarizer = session._summarizer("question", stream) if wanted else None
    ids: list[int] = []
    first_logits: Tensor | None = None
    first_s = started
    attended: tuple[int, ...] = ()
    for token, logits in generate(session, stream, question, max_new_tokens, summarizer):
        if first_logits is None:
            first_s, first_logits = session._clock(), logits
            attended = tuple(state.tokens for state in stream.cache.states)
        ids.append(token)
        if on_token is not None:
            on_token(engine.adapter.decode(ids))
    assert first_logits is not None
    tpot_s = (session._clock() - first_s) / (len(ids) - 1) if len(ids) > 1 else float("nan")
    made = Answer(
        question=question,
        text=engine.adapter.decode(ids),
        token_ids=tuple(ids),
        step=session.stream.step,
        time_s=session.stream.now_s,
        ttft_s=first_s - started,
        tpot_s=tpot_s,
        first_logits=first_logits.cpu().numpy(),
        top=_likeliest(engine, first_logits, top),
        attention=None if summarizer is None else summarizer.summary(),
        attended_tokens=attended,
        cache_bytes=session.cache_bytes,
    )
    if session._recorder is not None:
        session._recorder.answer(made)
    if remember:  # an answer that could not be recorded may be asked for again
        session.stream.history = (*session.stream.history, (question, made.text))
    return made


def check(question: str, max_new_tokens: int) -> None:
    """Refuse what cannot be asked, before anything is computed."""
    arguments.question_text(question)
    if arguments.whole_number("max_new_tokens", max_new_tokens) < 1:
        raise LabError(f"An answer needs at least one token, got max_new_tokens={max_new_tokens}.")


def texts(session: StreamSession, question: str, max_new_tokens: int) -> Iterator[str]:
    """The work of `StreamSession.stream_answer`: the session is free between two tokens."""

    def start() -> Iterator[tuple[int, Tensor]]:
        return generate(session, _beside(session), question, max_new_tokens)

    take = session.turns.take
    tokens = take("stream_answer", start)
    ids: list[int] = []
    while (found := take("stream_answer", lambda: next(tokens, None))) is not None:
        ids.append(found[0])
        yield session.engine.adapter.decode(ids)


def generate(
    session: StreamSession,
    stream: StreamState,
    question: str,
    max_new_tokens: int,
    summarizer: Summarizer | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Greedy answer on a `reading_stream()`: (token id, the logits that chose it), one after the other."""
    wants = session._wants()
    reads = wants
    if summarizer is not None:
        reads = replace(wants, rows=slice(None), on_rows=summarizer.add)
    hidden = prefill(session, question, reads, stream)
    yield from reading.decode(
        session.engine, stream.cache, hidden, max_new_tokens=max_new_tokens, wants=wants
    )


def prefill(
    session: StreamSession, question: str, wants: Wants, stream: StreamState | None = None
) -> Float[Tensor, "new hidden"]:
    """The work of `StreamSession.prefill_question`, which describes the arguments."""
    arguments.question_text(question)
    if not session.stream.frames_seen:
        raise LabError("No frame was fed yet, so there is nothing to ask about; feed some first.")
    segment = session.engine.adapter.question(question)
    if wants.rows is not None:
        wants = replace(wants, rows=slice(0, len(segment)))
    stream = _beside(session) if stream is None else stream
    reader = reading.Reader(session.engine, stream, session.policy, session.seed)
    return reader.prefill(segment, wants)


def _beside(session: StreamSession) -> StreamState:
    """The stream as it is now, on a cache that a question may write to."""
    return session.stream.for_reading(session.engine.new_cache())


def _likeliest(engine: Engine, logits: Tensor, count: int) -> tuple[tuple[str, float], ...]:
    chances, ids = logits.softmax(-1).topk(min(count, logits.shape[-1]))
    tokenizer = engine.adapter.tokenizer
    return tuple(
        (str(tokenizer.decode([int(i)])), float(p)) for i, p in zip(ids, chances, strict=True)
    )
