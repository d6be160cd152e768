"""`hermes-lab eval --suite worlds`: questions with known answers on worlds that training never saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hermes_lab import policies as registry
from hermes_lab.errors import LabError, PolicyError
from hermes_lab.evaluation.scores import Comparison, WorldsResult, score_by
from hermes_lab.lab import Lab, load
from hermes_lab.pocket.shipped import names, trained_frames
from hermes_lab.stream.session import StreamSession
from hermes_lab.worlds import HELD_OUT_SEEDS, TYPES, UNLEARNED, Question, World
from hermes_lab.worlds.catalogue import FRAME_PX

Progress = Callable[[int, int], None]
FIRST_SEED = 1000
"""Evaluation streams start here; smaller seeds are for demonstrations."""
_CHUNK_FRAMES = 16
_ASKED_FROM = 0.25
"""Under a policy, questions are asked after every chunk from this share of the stream on."""
_PER_TIME = 6
ROW = {k: i for i, k in enumerate(TYPES)}
Records = list[tuple[int, int, bool]]
"""Seed of the stream, type (a number of `ROW`) and whether the answer was right, for each question."""


@dataclass(frozen=True)
class HeldOut:
    """Which streams an evaluation runs on, and since when.

    Raises:
        LabError: fewer than one stream or sixteen frames, or seeds outside the held-out range.
    """

    lab: Lab
    seeds: range
    frames: int
    begun: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, model: Lab | str, streams: int, frames: int | None, first_seed: int) -> HeldOut:
        """So many streams; `frames` None: as long as the model was trained for."""
        lab = load(model) if isinstance(model, str) else model
        if frames is None:
            frames = trained_frames(lab.name if lab.name in names() else "pocket")
        return cls(lab, range(first_seed, first_seed + streams), frames)

    def __post_init__(self) -> None:
        if not self.seeds or self.frames < _CHUNK_FRAMES:
            raise LabError(
                f"An evaluation needs at least 1 stream of {_CHUNK_FRAMES} frames, but {len(self.seeds)} of "
                f"{self.frames} were asked for."
            )
        if self.seeds[0] not in HELD_OUT_SEEDS or self.seeds[-1] not in HELD_OUT_SEEDS:
            raise LabError(
                f"Seeds {self.seeds[0]} to {self.seeds[-1]} leave the held-out range, which ends at "
                f"{HELD_OUT_SEEDS.stop - 1}: ask for fewer streams."
            )

    def result(self, policy: str, records: Records) -> WorldsResult:
        """Scores of the answers, by type and horizon."""
        stream, kind, right = (np.array(column) for column in zip(*records, strict=True))
        by_horizon, by_type = score_by(right, kind, stream, unlearned=UNLEARNED)
        return WorldsResult(
            model=self.lab.name,
            policy=policy,
            streams=len(self.seeds),
            frames=self.frames,
            questions=len(records),
            seeds=(self.seeds[0], self.seeds[-1]),
            seconds=time.perf_counter() - self.begun,
            by_horizon=by_horizon,
            by_type=by_type,
            unlearned=tuple(k for k in UNLEARNED if k in by_type),
        )


def evaluate_worlds(
    lab_or_path: Lab | str,
    streams: int = 500,
    frames: int | None = None,
    policy: str | None = None,
    progress: Progress | None = None,
    first_seed: int = FIRST_SEED,
) -> WorldsResult:
    """Exact match by question type and horizon on held-out worlds, each streamed through a session of its own.

    The policy may name its budget as `fifo(budget_tokens=512)`; without a budget a quarter of the stream is kept.
    Without a policy everything is kept; models of the pocket family answer far more questions in the same time by
    `hermes_lab.training.exam`.

    Raises:
        LabError: fewer than one stream or sixteen frames, or seeds outside the held-out range.
    """
    held_out = HeldOut.of(lab_or_path, streams, frames, first_seed)
    label = policy_text(policy or "full", held_out.frames, held_out.lab)
    return held_out.result(label, _streamed(held_out, label, progress))


def compare(
    model: str | Lab,
    policies: Sequence[str] = (),
    streams: int = 500,
    frames: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """`evaluate_worlds` once per policy, or once with the full cache where none is named."""
    lab = load(model) if isinstance(model, str) else model
    wanted: list[str | None] = [*policies] or [None]
    return Comparison([evaluate_worlds(lab, streams, frames, p, progress) for p in wanted])


def policy_text(policy: str, frames: int, lab: Lab) -> str:
    """A policy with a quarter of the stream as its budget, where it names none and takes one (`full` takes none)."""
    if "budget_tokens" in policy:
        return policy
    layout = lab.adapter.frame_layout(FRAME_PX, FRAME_PX)
    tokens = frames // layout.frames_per_group * layout.visual_tokens
    budget = len(lab.adapter.prefix()) + tokens // 4
    try:
        registry.get(policy, budget_tokens=budget)
    except PolicyError:
        return policy
    name, _, rest = policy.partition("(")
    settings = f"budget_tokens={budget}" + (f", {rest[:-1]}" if rest.rstrip(")") else "")
    return f"{name}({settings})"


def _streamed(held_out: HeldOut, policy: str, progress: Progress | None) -> Records:
    lab, seeds, frames = held_out.lab, held_out.seeds, held_out.frames
    records: Records = []
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
                    records.append((seed, ROW[question.type], _answers(session, question)))
        if progress:
            progress(number + 1, len(seeds))
    return records


def _answers(session: StreamSession, question: Question) -> bool:
    """Whether the session's whole answer is the right word."""
    return session.ask(question.text, max_new_tokens=3).text.strip() == question.answer
