"""`hermes-lab eval --suite worlds`: questions with known answers on worlds that training never saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hermes_lab import policies as registry
from hermes_lab.errors import LabError, PolicyError
from hermes_lab.evaluation.scores import Comparison, WorldsResult, score_by
from hermes_lab.lab import Lab, load
from hermes_lab.pocket.shipped import names, trained_frames
from hermes_lab.stream.session import StreamSession
from hermes_lab.training import data
from hermes_lab.training.branches import answer_logits, watch
from hermes_lab.training.config import Recipe
from hermes_lab.training.families import family
from hermes_lab.worlds import HELD_OUT_SEEDS, TYPES, UNLEARNED, Question, World

Progress = Callable[[int, int], None]
FIRST_SEED = 1000
"""Evaluation streams start here; smaller seeds are for demonstrations."""
_QUESTIONS_PER_STREAM = 72
_STREAMS_AT_ONCE = 4
_CHUNK_FRAMES = 16
_ASKED_FROM = 0.25
"""Under a policy, questions are asked after every chunk from this share of the stream on."""
_PER_TIME = 6
_ROW = {k: i for i, k in enumerate(TYPES)}
_Records = list[tuple[int, int, bool]]
"""Stream, type and whether the answer was right, per question."""


def evaluate_worlds(
    lab_or_path: Lab | str,
    streams: int = 500,
    frames: int | None = None,
    policy: str | None = None,
    progress: Progress | None = None,
    first_seed: int = FIRST_SEED,
) -> WorldsResult:
    """Exact match by question type and horizon on held-out worlds.

    Without a policy the whole cache is kept and many questions per stream are answered in one batch (only
    models of the pocket family). With one, each stream runs through a session under that policy, which may
    name its budget as `fifo(budget_tokens=512)`; without a budget a quarter of the stream is kept.

    Raises:
        LabError: fewer than one stream or sixteen frames, or seeds outside the held-out range.
    """
    lab = load(lab_or_path) if isinstance(lab_or_path, str) else lab_or_path
    if frames is None:
        frames = trained_frames(lab.name) if lab.name in names() else trained_frames("pocket")
    seeds = range(first_seed, first_seed + streams)
    if streams < 1 or frames < _CHUNK_FRAMES:
        raise LabError(
            f"An evaluation needs at least 1 stream of {_CHUNK_FRAMES} frames, but {streams} of {frames} "
            "were asked for."
        )
    if seeds[0] not in HELD_OUT_SEEDS or seeds[-1] not in HELD_OUT_SEEDS:
        raise LabError(
            f"Seeds {seeds[0]} to {seeds[-1]} leave the held-out range, which ends at "
            f"{HELD_OUT_SEEDS.stop - 1}: ask for fewer streams."
        )
    begun = time.perf_counter()
    if policy is None:
        records, label = _batched(lab, seeds, frames, progress), "full cache, batched"
    else:
        label = policy_text(policy, frames)
        records = _streamed(lab, seeds, frames, label, progress)
    stream, kind, right = (np.array(column) for column in zip(*records, strict=True))
    by_horizon, by_type = score_by(right, kind, stream, unlearned=UNLEARNED)
    return WorldsResult(
        model=lab.name,
        policy=label,
        streams=streams,
        frames=frames,
        questions=len(records),
        seeds=(seeds[0], seeds[-1]),
        seconds=time.perf_counter() - begun,
        by_horizon=by_horizon,
        by_type=by_type,
        unlearned=tuple(k for k in UNLEARNED if k in by_type),
    )


def compare(
    model: str | Lab,
    policies: Sequence[str] = (),
    streams: int = 500,
    frames: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """`evaluate_worlds` once per policy, or once with the full cache in batches where none is named."""
    lab = load(model) if isinstance(model, str) else model
    wanted: list[str | None] = [*policies] or [None]
    return Comparison([evaluate_worlds(lab, streams, frames, p, progress) for p in wanted])


def policy_text(policy: str, frames: int) -> str:
    """A policy with a quarter of the stream as its budget, where it names none and takes one (`full` takes none)."""
    if "budget_tokens" in policy:
        return policy
    budget = len(data.PREFIX) + frames * data.TOKENS_PER_FRAME // 4
    try:
        registry.get(policy, budget_tokens=budget)
    except PolicyError:
        return policy
    name, _, rest = policy.partition("(")
    settings = f"budget_tokens={budget}" + (f", {rest[:-1]}" if rest.rstrip(")") else "")
    return f"{name}({settings})"


@torch.no_grad()
def _batched(lab: Lab, seeds: range, frames: int, progress: Progress | None) -> _Records:
    model: Any = lab.adapter.model
    kin = family(model.config.model_type)
    recipe, weights = Recipe(), dict.fromkeys(TYPES, 1.0)
    records: _Records = []
    for start in range(0, len(seeds), _STREAMS_AT_ONCE):
        part = seeds[start : start + _STREAMS_AT_ONCE]
        drawn = data.batch(
            recipe, part, frames, _QUESTIONS_PER_STREAM, weights, augment=False, learn_end=True,
            prefix_tokens=len(kin.prefix), closing=kin.closing,
        )  # fmt: skip
        shown = drawn.frames.to(lab.adapter.device, lab.adapter.dtype)
        features = kin.features(model, shown)
        positions = kin.positions(drawn.positions, len(kin.prefix))
        stream_pass = watch(model, features, kin.prefix, positions)
        logits = answer_logits(model, stream_pass, drawn.groups)
        for group, values, asked in zip(drawn.groups, logits, drawn.questions, strict=True):
            due = group.labels != -100
            same = values.argmax(-1) == group.labels[due]
            stream = torch.arange(len(part))[:, None, None].expand(due.shape)[due].tolist()
            number = group.question[due].tolist()
            exact: dict[tuple[int, int], bool] = {}
            for s, q, ok in zip(stream, number, same.tolist(), strict=True):
                exact[s, q] = exact.get((s, q), True) and ok
            records += [(part[s], _ROW[asked[s][q].type], ok) for (s, q), ok in exact.items()]
        if progress:
            progress(start + len(part), len(seeds))
    return records


def _streamed(
    lab: Lab, seeds: range, frames: int, policy: str, progress: Progress | None
) -> _Records:
    records: _Records = []
    for number, seed in enumerate(seeds):
        world = World.generate(seed, frames)
        session = StreamSession(lab, policy, chunk_frames=_CHUNK_FRAMES, seed=seed)
        for start in range(0, frames, _CHUNK_FRAMES):
            end = min(start + _CHUNK_FRAMES, frames)
            session.feed([world.frame(t) for t in range(start, end)])
            if end >= _ASKED_FROM * frames:
                for question in world.questions(
                    np.random.default_rng([seed, end]), [end - 1], _PER_TIME
                ):
                    records.append((seed, _ROW[question.type], _answers(session, question)))
        if progress:
            progress(number + 1, len(seeds))
    return records


def _answers(session: StreamSession, question: Question) -> bool:
    """Whether the session's whole answer is the right word."""
    return session.ask(question.text, max_new_tokens=3).text.strip() == question.answer
