"""Readings and interventions on a running stream, for its worker's thread: pure functions of a session."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from hermes_lab import lens
from hermes_lab.errors import LabError
from hermes_lab.lens.tokens import check_head
from hermes_lab.stream.session import StreamSession
from hermes_lab.tokens import Role

Floats = npt.NDArray[np.float64]
RANDOM_DRAWS = 8


def value_weighted(
    session: StreamSession, question: str, layer: int, head: int
) -> tuple[Floats, Floats, Floats]:
    """One head's attention by frame, plain and value-weighted, each as shares; and the frames' times in seconds.

    Both are means over the question's tokens of what `hermes_lab.lens.value_weighted` reads.

    Raises:
        LabError: the question is empty, or there is no such layer or head.
    """
    head = check_head(session, head)
    read = lens.value_weighted(session, question, positions=None, layers=(layer,))
    attention, norms = read.attention[0][head].mean(0), read.norms[0][head].mean(0)
    ids = read.ids[0][head]
    known = ids >= 0
    frame = np.where(known, session.table.column("frame")[np.maximum(ids, 0)], -1)
    inside = frame >= 0
    frames = session.stream.frames_seen

    def shares(values: npt.NDArray[np.float32]) -> Floats:
        mass = np.bincount(frame[inside], weights=values[inside], minlength=frames)
        return mass / max(mass.sum(), 1e-12)

    time_s = np.arange(frames, dtype=float)
    all_frames = session.table.column("frame")
    has = all_frames >= 0
    time_s[all_frames[has]] = session.table.column("time_s")[has]
    return shares(attention), shares(norms), time_s


@dataclass(frozen=True)
class KnockoutReading:
    """What hiding tokens did to an answer, beside hiding as many random ones in the same layers.

    Attributes:
        answer: the token whose logit is followed; the likeliest first token unless one was named.
        logit, log_prob: with nothing hidden.
        targeted: change of (logit, log-probability) with the chosen tokens hidden.
        random: the same for each random draw, [draw, 2].
        after: the likeliest first token with the chosen tokens hidden.
        hidden_tokens: how many tokens were hidden in each layer that was knocked out.
    """

    answer: str
    logit: float
    log_prob: float
    targeted: Floats
    random: Floats
    after: str
    hidden_tokens: tuple[int, ...]


def knock_out(
    session: StreamSession,
    question: str,
    layers: Sequence[int],
    *,
    frames: tuple[int, int] | None = None,
    roles: Sequence[Role] = (Role.VISUAL, Role.SUMMARY),
    answer: str = "",
    draws: int = RANDOM_DRAWS,
    seed: int = 0,
) -> KnockoutReading:
    """Hide held tokens of some frames (first and last, inclusive) or roles in some layers, and read the answer.

    The random control hides, in every layer, as many held video tokens as the chosen set does there, drawn from
    the tokens outside the set where there are enough, from all of them otherwise.

    Raises:
        LabError: nothing to hide, or the answer has no token.
    """
    sets = {layer: _chosen(session, layer, frames, roles) for layer in layers}
    counts = tuple(len(ids) for ids in sets.values())
    if not sum(counts):
        raise LabError(
            "None of the chosen layers holds such a token now; choose other frames, roles or layers."
        )
    plain = session.question_logits(question)[-1].float()
    tokenizer = session.engine.adapter.tokenizer
    followed = lens.answer_ids(session, answer)[0] if answer.strip() else int(plain.argmax())
    base = _read(plain, followed)
    hidden = _logits_without(session, question, sets)
    rng = np.random.default_rng(seed)
    random = np.empty((draws, 2))
    for draw in range(draws):
        drawn = {layer: _random_set(session, layer, ids, rng) for layer, ids in sets.items()}
        random[draw] = _read(_logits_without(session, question, drawn), followed) - base
    return KnockoutReading(
        answer=str(tokenizer.decode([followed])),
        logit=float(base[0]),
        log_prob=float(base[1]),
        targeted=_read(hidden, followed) - base,
        random=random,
        after=str(tokenizer.decode([int(hidden.argmax())])),
        hidden_tokens=counts,
    )


def _chosen(
    session: StreamSession, layer: int, frames: tuple[int, int] | None, roles: Sequence[Role]
) -> npt.NDArray[np.int64]:
    span = None if frames is None else range(frames[0], frames[1] + 1)
    return lens.tokens(session, frames=span, role=roles, layer=layer).numpy()


def _random_set(
    session: StreamSession, layer: int, target: npt.NDArray[np.int64], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    pool = lens.tokens(session, role=(Role.VISUAL, Role.SUMMARY), layer=layer).numpy()
    outside = np.setdiff1d(pool, target)
    source = outside if len(outside) >= len(target) else pool
    return rng.choice(source, min(len(target), len(source)), replace=False)


def _logits_without(
    session: StreamSession, question: str, sets: dict[int, npt.NDArray[np.int64]]
) -> torch.Tensor:
    with ExitStack() as stack:
        for layer, ids in sets.items():
            if len(ids):
                stack.enter_context(lens.knockout(session, torch.as_tensor(ids), layers=layer))
        return session.question_logits(question)[-1].float()


def _read(logits: torch.Tensor, token: int) -> Floats:
    return np.array([float(logits[token]), float(logits.log_softmax(-1)[token])])
