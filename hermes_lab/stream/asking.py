"""Questions to a stream: the turn is prefilled beside it, the answer decoded, and all of it measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hermes_lab.engine.forward import Engine
from hermes_lab.engine.passes import Wants
from hermes_lab.errors import LabError
from hermes_lab.snapshot import Answer
from hermes_lab.stream import arguments, reading
from hermes_lab.stream.run import Run
from hermes_lab.stream.state import StreamState
from hermes_lab.stream.summaries import Summarizer
from hermes_lab.stream.turns import Turns


@dataclass(frozen=True)
class Asked:
    """A question and how it is to be answered; `StreamSession.ask` describes the fields.

    Raises:
        LabError: what cannot be asked, before anything is computed.
    """

    question: str
    max_new_tokens: int = 32
    attention: bool | None = None
    on_token: Callable[[str], None] | None = None
    top: int = 5

    def __post_init__(self) -> None:
        check(self.question, self.max_new_tokens)
        arguments.flags(
            attention=bool(self.attention) if self.attention is None else self.attention
        )
        given: Any = self.on_token
        if given is not None and not callable(given):
            raise LabError(f"on_token must be a function of a text, got {arguments.told(given)}.")
        arguments.whole_number("top", self.top, least=0)


def check(question: str, max_new_tokens: int) -> None:
    """Refuse what cannot be asked, before anything is computed.

    Raises:
        LabError: the question is empty or no text, or the answer has no room.
    """
    arguments.question_text(question)
    if arguments.whole_number("max_new_tokens", max_new_tokens) < 1:
        raise LabError(f"An answer needs at least one token, got max_new_tokens={max_new_tokens}.")


def answer(run: Run, stream: StreamState, asked: Asked) -> Answer:
    """Answer a question from what the stream holds; the stream stays as it is.

    Raises:
        LabError: no frame was fed yet.
        PolicyError: the policy broke its contract.
        ModelError: the model's activations are not finite.
    """
    started = run.clock()
    engine, beside = run.engine, stream.beside()
    wanted = run.records if asked.attention is None else asked.attention
    summarizer = run.summarizer("question", beside) if wanted else None
    ids: list[int] = []
    first_logits: Tensor | None = None
    first_s = started
    attended: tuple[int, ...] = ()
    for token, logits in generate(run, beside, asked.question, asked.max_new_tokens, summarizer):
        if first_logits is None:
            first_s, first_logits = run.clock(), logits
            attended = tuple(state.tokens for state in beside.cache.states)
        ids.append(token)
        if asked.on_token is not None:
            asked.on_token(engine.adapter.decode(ids))
    assert first_logits is not None
    tpot_s = (run.clock() - first_s) / (len(ids) - 1) if len(ids) > 1 else float("nan")
    return Answer(
        question=asked.question,
        text=engine.adapter.decode(ids),
        token_ids=tuple(ids),
        step=stream.step,
        time_s=stream.now_s,
        ttft_s=first_s - started,
        tpot_s=tpot_s,
        first_logits=first_logits.cpu().numpy(),
        top=_likeliest(engine, first_logits, int(asked.top)),
        attention=None if summarizer is None else summarizer.summary(),
        attended_tokens=attended,
        cache_bytes=stream.cache.bytes,
    )


def texts(
    turns: Turns,
    start: Callable[[], Iterator[tuple[int, Tensor]]],
    text: Callable[[list[int]], str],
) -> Iterator[str]:
    """The answer so far, token by token; the session is free between two tokens.

    Args:
        start: begins to generate, in the first turn.
        text: what token ids say.
    """
    tokens = turns.take("stream_answer", start)
    ids: list[int] = []
    while (found := turns.take("stream_answer", lambda: next(tokens, None))) is not None:
        ids.append(found[0])
        yield text(ids)


def generate(
    run: Run,
    beside: StreamState,
    question: str,
    max_new_tokens: int,
    summarizer: Summarizer | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Greedy answer on a stream of its own (`StreamState.beside`): (token id, the logits that chose it), one by one."""
    wants = run.wants()
    reads = wants
    if summarizer is not None:
        reads = replace(wants, rows=slice(None), on_rows=summarizer.add)
    hidden = prefill(run, beside, question, reads)
    yield from reading.decode(
        run.engine, beside.cache, hidden, max_new_tokens=max_new_tokens, wants=wants
    )


def prefill(
    run: Run, beside: StreamState, question: str, wants: Wants
) -> Float[Tensor, "new hidden"]:
    """Prefill a question's turn on a stream of its own (`StreamState.beside`).

    Raises:
        LabError: the question is empty or no text, or no frame was fed yet.
        PolicyError: the policy broke its contract.
        ModelError: the model's activations are not finite.
    """
    arguments.question_text(question)
    if not beside.frames_seen:
        raise LabError("No frame was fed yet, so there is nothing to ask about; feed some first.")
    segment = run.engine.adapter.question(question)
    if wants.rows is not None:
        wants = replace(wants, rows=slice(0, len(segment)))
    return reading.Reader(run.engine, beside, run.policy, run.seed).prefill(segment, wants)


def _likeliest(engine: Engine, logits: Tensor, count: int) -> tuple[tuple[str, float], ...]:
    chances, ids = logits.softmax(-1).topk(min(count, logits.shape[-1]))
    tokenizer = engine.adapter.tokenizer
    return tuple(
        (str(tokenizer.decode([int(i)])), float(p)) for i, p in zip(ids, chances, strict=True)
    )
