"""One stream under several policies: encoded once, replayed from its kept visual tokens, asked the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dashboards.live.token_states import Tracker
from dashboards.parts.job import Progress
from dashboards.parts.limits import bounded_chunks, limits
from dashboards.parts.policy_text import full_spec
from hermes_lab import policies, video
from hermes_lab.evaluation.scores import score_by
from hermes_lab.figures import Strip, held_jaccard, make_strip
from hermes_lab.lab import Lab
from hermes_lab.policies import Policy
from hermes_lab.recording import TokenState
from hermes_lab.snapshot import Snapshot
from hermes_lab.stream.session import StreamSession
from hermes_lab.tokens import Role
from hermes_lab.worlds import TYPES, Question, World

COMPANIONS = ("full", "recent_frames", "uniform", "random")
LEAST_STREAMS = 3
"""Fewer streams give no interval."""
ASKED_FROM = 0.25
QUESTIONS_PER_TIME = 4


@dataclass(frozen=True)
class Asked:
    """One question to one policy; `expected` is None where nobody knows the answer."""

    question: str
    text: str
    time_s: float
    ttft_s: float
    expected: str | None = None
    type: str = ""
    horizon: str = ""
    stream: int = 0


@dataclass(frozen=True)
class PolicyRun:
    """What one policy made of the first stream, and its answers over all of them.

    Attributes:
        held: which cells of which frames each layer holds at the end, [layer, frame * row * col].
        strip: its retention strip at the end.
        time_s, cache_bytes: after every step.
    """

    name: str
    spec: str
    strip: Strip
    held: npt.NDArray[np.bool_]
    time_s: npt.NDArray[np.float64]
    cache_bytes: npt.NDArray[np.int64]
    asked: tuple[Asked, ...]
    problem: str | None = None

    @property
    def median_ttft_s(self) -> float:
        times = [a.ttft_s for a in self.asked]
        return float(np.median(times)) if times else float("nan")


@dataclass(frozen=True)
class Contest:
    """All policies on the same streams.

    Attributes:
        accuracy: policy -> horizon -> (share, low, high); empty where no answer is known.
        chance: horizon -> accuracy of the commonest answer.
    """

    runs: tuple[PolicyRun, ...]
    streams: int
    frames: int
    accuracy: Mapping[str, Mapping[str, tuple[float, float, float]]] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)

    def agreement(self) -> npt.NDArray[np.float64]:
        """Mean Jaccard similarity of what each two policies hold, [policy, policy]."""
        return np.array(
            [[held_jaccard(a.held, b.held).mean() for b in self.runs] for a in self.runs]
        )


def companions(lab: Lab, budget_tokens: int, shape: tuple[int, int]) -> dict[str, Policy]:
    """The policies that every comparison is shown beside, at the same budget."""
    layout = lab.adapter.frame_layout(*shape)
    frames = budget_tokens * layout.frames_per_group // max(1, layout.visual_tokens)
    return {
        "full": policies.get("full"),
        "recent_frames": policies.get("recent_frames", frames=max(1, frames)),
        "uniform": policies.get("uniform", budget_tokens=budget_tokens),
        "random": policies.get("random", budget_tokens=budget_tokens),
    }


def hold(
    lab: Lab,
    contestants: Mapping[str, Policy],
    budget_tokens: int,
    *,
    source: str,
    fps: float,
    chunk_frames: int,
    worlds: Sequence[World],
    questions: Sequence[str],
    progress: Progress,
    max_frames: int | None = None,
) -> Contest:
    """Run the contest.

    Args:
        contestants: by name; those that need a budget and have none are given `budget_tokens`.
        worlds: procedural streams with known answers; empty: `source` is streamed and `questions` are asked at its end.

    Raises:
        LabError: as for sources, sessions and policies.
    """
    rivals = {n: p.bounded(budget_tokens, lab.layers) for n, p in contestants.items()}
    runs: dict[str, list[PolicyRun]] = {}
    streams = max(1, len(worlds))
    frames = 0
    for number in range(streams):
        world = worlds[number] if worlds else None
        due = _questions(world, chunk_frames) if world is not None else {}
        base = StreamSession(lab, "full", chunk_frames=chunk_frames, keep_visual=True, seed=number)
        share = 0.4 / streams
        shape = (96, 96)
        with video.open(
            source if world is None else world_spec(world),
            fps=fps,
            limits=limits(),
            max_frames=max_frames,
        ) as opened:
            for chunk in bounded_chunks(opened, chunk_frames):
                shape = chunk[0].image.shape[:2]
                base.feed(chunk)
                frames = base.stream.frames_seen
                total = opened.estimated_frames or max(frames, 1)
                progress(
                    number / streams + share * min(1, frames / total),
                    f"stream {number + 1}: encoding frame {frames}",
                )
        field_ = {**rivals, **companions(lab, budget_tokens, shape)}
        for place, (name, policy) in enumerate(field_.items()):
            done = number / streams + share + (1 / streams - share) * place / len(field_)
            progress(done, f"stream {number + 1}: {name}")
            runs.setdefault(name, []).append(
                _run(base, name, policy, due, () if due else questions, number, progress, done)
            )
    joined = tuple(
        PolicyRun(
            name, of[0].spec, of[0].strip, of[0].held, of[0].time_s, of[0].cache_bytes,
            tuple(a for run in of for a in run.asked), next((r.problem for r in of if r.problem), None),
        )
        for name, of in runs.items()
    )  # fmt: skip
    accuracy, chance = _accuracy(joined, streams)
    return Contest(joined, streams, frames, accuracy, chance)


def _run(
    base: StreamSession, name: str, policy: Policy, due: Mapping[int, Sequence[Question]],
    questions: Sequence[str], stream: int, progress: Progress, done: float,
) -> PolicyRun:  # fmt: skip
    """One policy over one stream that was encoded before."""
    tracker = Tracker()
    asked: list[Asked] = []
    steps: list[Snapshot] = []
    last: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]] = []

    def on_step(session: StreamSession, snapshot: Snapshot) -> None:
        progress(done, f"stream {stream + 1}: {name}, frame {snapshot.frames_seen}")
        steps.append(snapshot)
        last[:] = [tracker.add(snapshot, session.table)]
        for question in due.get(snapshot.frames_seen, ()):
            answer = session.ask(question.text, max_new_tokens=3)
            asked.append(
                Asked(question.text, answer.text.strip(), answer.time_s, answer.ttft_s, question.answer, question.type,
                      question.horizon, stream)
            )  # fmt: skip

    session = base.replay(policy, on_step=on_step)
    for text in questions:
        answer = session.ask(text, max_new_tokens=16)
        asked.append(Asked(text, answer.text.strip(), answer.time_s, answer.ttft_s, stream=stream))
    ids, states = last[0]
    table = session.table
    frame, time_s = table.column("frame")[ids], table.column("time_s")[ids]
    visual = table.column("role")[ids] == Role.VISUAL
    return PolicyRun(
        name=name,
        spec=full_spec(policy.config()),
        strip=make_strip(states, frame, time_s),
        held=_cells(session, ids[visual], states[:, visual]),
        time_s=np.array([s.time_s for s in steps]),
        cache_bytes=np.array([s.cache_bytes for s in steps]),
        asked=tuple(asked),
        problem=next((note for s in steps for note in s.notes), None),
    )


def _cells(
    session: StreamSession, ids: npt.NDArray[np.int64], states: npt.NDArray[np.int8]
) -> npt.NDArray[np.bool_]:
    """Held cells by what they are, so that policies with other global ids can be compared."""
    table = session.table
    frame, row, col = (table.column(n)[ids].astype(np.int64) for n in ("frame", "row", "col"))
    rows, cols = int(row.max(initial=0)) + 1, int(col.max(initial=0)) + 1
    cells = np.zeros((len(states), session.stream.frames_seen * rows * cols), np.bool_)
    known = (row >= 0) & (col >= 0)
    place = (frame[known] * rows + row[known]) * cols + col[known]
    held = np.isin(states, (TokenState.KEPT, TokenState.PROTECTED))[:, known]
    for layer in range(len(states)):
        cells[layer, place[held[layer]]] = True
    return cells


def world_spec(world: World) -> str:
    """The world as a frame source."""
    camera = "" if world.camera == "still" else f",camera={world.camera}"
    return f"world:seed={world.seed},frames={world.frames}{camera}"


def _questions(world: World, chunk_frames: int) -> dict[int, list[Question]]:
    """Questions by the number of frames seen when they are asked: after every chunk from a quarter of the stream on."""
    due: dict[int, list[Question]] = {}
    ends = [
        min(start + chunk_frames, world.frames) for start in range(0, world.frames, chunk_frames)
    ]
    for end in ends:
        if end >= ASKED_FROM * world.frames:
            rng = np.random.default_rng([world.seed, end])
            due[end] = world.questions(rng, [end - 1], QUESTIONS_PER_TIME)
    return due


def _accuracy(
    runs: Sequence[PolicyRun], streams: int
) -> tuple[dict[str, dict[str, tuple[float, float, float]]], dict[str, float]]:
    accuracy: dict[str, dict[str, tuple[float, float, float]]] = {}
    chance: dict[str, float] = {}
    rows = {name: n for n, name in enumerate(TYPES)}
    for run in runs:
        known = [a for a in run.asked if a.expected is not None]
        if not known:
            continue
        right = np.array([a.text == a.expected for a in known])
        kind = np.array([rows[a.type] for a in known])
        by_horizon, _ = score_by(right, kind, np.array([a.stream for a in known]))
        gap = streams < LEAST_STREAMS
        accuracy[run.name] = {
            h: (s.share, float("nan") if gap else s.low, float("nan") if gap else s.high)
            for h, s in by_horizon.items()
        }
        chance = {h: s.majority for h, s in by_horizon.items()}
    return accuracy, chance
