"""The logit lens: what each layer's residual stream would answer, and how logits of two answers differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from hermes_lab.errors import LabError
from hermes_lab.stream.question_pass import question_pass

if TYPE_CHECKING:
    from hermes_lab.stream.session import StreamSession

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

Answers = str | int | Iterable[str | int] | None


@dataclass(frozen=True)
class LogitLens:
    """What the final norm and the unembedding make of the residual stream after each layer.

    Attributes:
        question: what was asked.
        positions: token positions within the question's turn, counted from its start.
        answer_ids: the tokens followed; each is an answer's first token.
        logits, log_probs: of those tokens, [layer, position, answer].
        ranks: how many tokens of the vocabulary have a larger logit, [layer, position, answer].
        top_ids: the likeliest tokens of each layer, best first, [layer, position, top].
        top_text: the same, decoded.
        entropy: of the whole distribution in nats, [layer, position].
    """

    question: str
    positions: tuple[int, ...]
    answer_ids: tuple[int, ...]
    logits: FloatArray
    log_probs: FloatArray
    ranks: IntArray
    top_ids: IntArray
    top_text: tuple[tuple[tuple[str, ...], ...], ...]
    entropy: FloatArray


def logit_lens(
    session: StreamSession,
    question: str,
    answers: Answers = None,
    *,
    positions: Sequence[int] | None = (-1,),
    top: int = 5,
) -> LogitLens:
    """Read the residual stream after every layer as if it were the last (nostalgebraist 2020).

    Args:
        question: plain text.
        answers: texts (their first token counts) or token ids to follow; None: the last layer's best at the
            last position.
        positions: which tokens of the question's turn, negative from its end; None: all.
        top: how many of the likeliest tokens to keep.

    Raises:
        LabError: an answer has no token, or a position lies outside the question.
    """
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(session.engine.layers)]
    seen = question_pass(session, question, names)
    where = check_positions(positions, seen.hidden.shape[0])
    norm = cast(Any, session.engine.adapter.decoder.norm)
    device = next(norm.parameters()).device
    with torch.no_grad():
        logits = torch.stack(
            [
                session.engine.logits(norm(seen.activations[n][0, list(where)].to(device)))
                for n in names
            ]
        )
    ids = (int(logits[-1, -1].argmax()),) if answers is None else answer_ids(session, answers)
    followed = torch.tensor(ids, device=logits.device)
    log_probs = logits.log_softmax(-1)
    chosen = logits[..., followed]
    best = logits.topk(min(top, logits.shape[-1]), dim=-1).indices.cpu().numpy()
    ranks = torch.stack([(logits > one[..., None]).sum(-1) for one in chosen.unbind(-1)], -1)
    tokenizer = session.engine.adapter.tokenizer
    return LogitLens(
        question=question,
        positions=where,
        answer_ids=ids,
        logits=chosen.cpu().numpy(),
        log_probs=log_probs[..., followed].cpu().numpy(),
        ranks=ranks.cpu().numpy(),
        top_ids=best,
        top_text=tuple(
            tuple(tuple(str(tokenizer.decode([int(i)])) for i in row) for row in layer)
            for layer in best
        ),
        entropy=torch.special.entr(log_probs.exp()).sum(-1).cpu().numpy(),
    )


def logit_difference(
    session: StreamSession, question: str, answer: str | int, other: str | int
) -> float:
    """How much larger the logit of one answer's first token is than the other's, where the answer begins.

    Raises:
        LabError: an answer has no token, or both begin with the same one.
    """
    first, second = answer_pair(session, answer, other)
    logits = session.question_logits(question)[-1]
    return float(logits[first] - logits[second])


def difference(logits: Float[Tensor, "new vocabulary"], pair: tuple[int, int]) -> float:
    """Logit of the first of two tokens minus that of the second, at the last position."""
    return float(logits[-1, pair[0]] - logits[-1, pair[1]])


def answer_ids(session: StreamSession, answers: Answers) -> tuple[int, ...]:
    """The first token of each answer; integers stand for themselves.

    Raises:
        LabError: a text has no token, or an id is not in the vocabulary.
    """
    items = (
        [answers] if isinstance(answers, str | int) else [] if answers is None else list(answers)
    )
    if not items:
        raise LabError("Name at least one answer.")
    adapter = session.engine.adapter
    vocabulary = int(cast(Any, adapter.head).weight.shape[0])
    found: list[int] = []
    for item in items:
        if isinstance(item, str):
            ids = adapter.tokenizer(item, add_special_tokens=False)["input_ids"]
            if not ids:
                raise LabError(f"The answer {item!r} has no token; give some text.")
            found.append(int(ids[0]))
        elif 0 <= item < vocabulary:
            found.append(item)
        else:
            raise LabError(f"Token id {item} is not in the vocabulary of {vocabulary} tokens.")
    return tuple(found)


def answer_pair(session: StreamSession, answer: str | int, other: str | int) -> tuple[int, int]:
    """First tokens of two answers to be told apart.

    Raises:
        LabError: they begin with the same token.
    """
    first, second = answer_ids(session, [answer, other])
    if first == second:
        raise LabError(
            f"The answers {answer!r} and {other!r} begin with the same token; choose answers that differ there."
        )
    return first, second


def check_positions(positions: Sequence[int] | None, length: int) -> tuple[int, ...]:
    """Positions within a turn of `length` tokens, counted from its start; None: all.

    Raises:
        LabError: one lies outside, or there are none.
    """
    if positions is None:
        return tuple(range(length))
    if not positions:
        raise LabError("No positions were given: name at least one, or give None for all of them.")
    for position in positions:
        if not -length <= position < length:
            raise LabError(
                f"Position {position} lies outside the question's turn of {length} tokens."
            )
    return tuple(p % length for p in positions)
