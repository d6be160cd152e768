"""Training material: streams drawn from the world, worn a little, with questions packed into branches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from hermes_lab.training import memory, motion
from hermes_lab.training.branches import Branches
from hermes_lab.training.config import TOKENS_PER_FRAME, Recipe
from hermes_lab.training.vocabulary import TURN_END, TURN_START, WORDS
from hermes_lab.worlds import Question, World
from hermes_lab.worlds.questions import LONG_MIN_AGE_FRAMES
from hermes_lab.worlds.schedule import Camera

_ID = {w: i for i, w in enumerate(WORDS)}
_USER = [_ID[TURN_START], _ID["user"]]
_ANSWER = [_ID[TURN_END], _ID[TURN_START], _ID["assistant"]]
PREFIX: tuple[int, ...] = (
    _ID[TURN_START],
    _ID["system"],
    _ID["watch"],
    _ID["the"],
    _ID["stream"],
    _ID[TURN_END],
    *_USER,
)
"""Ids before the first frame: what the chat template writes there."""
_QUESTIONS_PER_TIME = 3
_END_P = 0.2
"""Share of answers after which training also asks for the end of the turn."""


def word_ids(text: str) -> list[int]:
    """Ids of a question's words (the world's own questions need no normalising)."""
    return [_ID[w] for w in text.split()]


def camera_of(rng: np.random.Generator, recipe: Recipe) -> Camera:
    """A still camera, or now and then a moving one."""
    if rng.random() >= recipe.moving_camera_p:
        return "still"
    return "pan" if rng.random() < 0.5 else "panzoom"


@dataclass(frozen=True)
class Batch:
    """Streams of one length with their questions, ready for the forward.

    Attributes:
        frames: pixels in [-1, 1], shape (stream, frame, 3, side, side).
        positions: place of every prefix and frame token on one axis (see `Family.positions`).
        events: what the object in each cell did since the frame before (see `hermes_lab.training.motion`).
        facts: what is worth remembering about each cell (see `hermes_lab.training.memory`).
        groups: branches in runs of rising time.
        questions: per group, per stream, the questions in branch order.
    """

    frames: Float[Tensor, "stream frame 3 side side"]
    positions: Int[Tensor, "stream token"]
    events: Int[Tensor, "stream frame cell 4"]
    facts: Int[Tensor, "stream frame cell fact"]
    groups: list[Branches]
    questions: list[list[list[Question]]]


def pixels(frames: UInt8[np.ndarray, "... side side 3"]) -> Float[Tensor, "... 3 side side"]:
    """RGB bytes as the processor's mean and deviation of 0.5 make them."""
    return torch.from_numpy(frames).movedim(-1, -3).float().div_(127.5).sub_(1)


def wear(
    frames: Float[Tensor, "frame 3 side side"], rng: np.random.Generator
) -> Float[Tensor, "frame 3 side side"]:
    """What scaling and compression leave: some softness and some grain."""
    if rng.random() < 0.5:
        side = frames.shape[-1]
        low = int(rng.integers(64, 92))
        small = F.interpolate(frames, size=(low, low), mode="bilinear", antialias=True)
        frames = F.interpolate(small, size=(side, side), mode="bicubic").clamp(-1, 1)
    noise = torch.from_numpy(rng.standard_normal(frames[0].numel(), dtype=np.float32))
    grain = noise.view(1, *frames.shape[1:]) * float(rng.uniform(0, 0.07))
    gain = float(rng.uniform(0.92, 1.06))
    return (frames * gain + grain).clamp(-1, 1)


def positions(
    rng: np.random.Generator | None, frames: int, recipe: Recipe, prefix: int = len(PREFIX)
) -> Int[np.ndarray, " token"]:
    """Positions of prefix and frames, with gaps between some frames when dice are given.

    Gaps make short streams cover the positions of long ones, and are what eviction leaves behind.
    """
    place = np.arange(prefix + frames * TOKENS_PER_FRAME)
    room = recipe.gap_reach_tokens - len(place)
    if rng is None or room <= 0 or rng.random() >= recipe.gap_p:
        return place
    cuts = int(rng.integers(1, 5))
    where = rng.integers(0, frames, cuts)
    total = rng.random() * room
    sizes = rng.dirichlet(np.ones(cuts)) * total
    for frame, size in zip(where, sizes, strict=True):
        place[prefix + frame * TOKENS_PER_FRAME :] += int(size)
    return place


def _branches_of(questions: Sequence[Question], chained: bool) -> list[list[Question]]:
    """Questions in order of time, one a branch; or two of the same time, the second as a second turn."""
    found: list[list[Question]] = []
    for question in sorted(questions, key=lambda q: q.time_frame):
        last = found[-1] if found else []
        if chained and len(last) == 1 and last[0].time_frame == question.time_frame:
            last.append(question)
        else:
            found.append([question])
    return found


def _tokens_of(
    branch: Sequence[Question], first: int, ends: bool, closing: Sequence[int]
) -> list[tuple[int, int, int]]:
    """(id, label, number of the question) per token; `ends`: also learn that the last answer is over.

    `closing` are the ids between the last frame and the first question.
    """
    row: list[tuple[int, int, int]] = []
    for turn, question in enumerate(branch):
        follows = turn + 1 < len(branch)
        ids = [*(_USER if turn else closing), *word_ids(question.text), *_ANSWER]
        labels = [-100] * (len(ids) - 1) + [_ID[question.answer]]
        if follows or ends:
            ids.append(_ID[question.answer])
            labels.append(_ID[TURN_END])
        if follows:
            ids.append(_ID[TURN_END])
            labels.append(-100)
        row += [(i, label, first + turn) for i, label in zip(ids, labels, strict=True)]
    return row


def pack(
    streams: Sequence[Sequence[Sequence[Question]]],
    end_p: float,
    rng: np.random.Generator,
    closing: Sequence[int] = (),
) -> Branches:
    """Lay out branches (per stream, per branch, its questions); a share `end_p` also learns to stop."""
    rows: list[list[list[tuple[int, int, int]]]] = []
    for branches in streams:
        asked, row = 0, []
        for branch in branches:
            row.append(_tokens_of(branch, asked, bool(rng.random() < end_p), closing))
            asked += len(branch)
        rows.append(row)
    count = max(1, *(len(r) for r in rows))
    width = max([len(b) for r in rows for b in r], default=1)
    table = torch.tensor([0, -100, -1]).repeat(len(rows), count, width, 1)
    frame = torch.full((len(rows), count), -1)
    for s, (row, branches) in enumerate(zip(rows, streams, strict=True)):
        for b, (tokens, branch) in enumerate(zip(row, branches, strict=True)):
            table[s, b, : len(tokens)] = torch.tensor(tokens)
            frame[s, b] = branch[0].time_frame
    return Branches(table[..., 0], table[..., 1], table[..., 2], frame)


def batch(
    recipe: Recipe,
    seeds: Sequence[int],
    frames: int,
    questions: int,
    weights: Mapping[str, float],
    *,
    augment: bool,
    times: Sequence[int] | None = None,
    min_age_frames: int | None = None,
    learn_end: bool = False,
    prefix_tokens: int = len(PREFIX),
    closing: Sequence[int] = (),
) -> Batch:
    """Draw streams of `frames` frames and about `questions` questions each.

    With `learn_end` every answer has the label of its end as well. Short streams lower the age that `long` evidence must have, so that every type can be asked in them.
    """
    age = (
        min(LONG_MIN_AGE_FRAMES, max(2, frames // 4)) if min_age_frames is None else min_age_frames
    )
    dice = np.random.default_rng(np.random.SeedSequence([int(s) for s in seeds]))
    chained = augment and bool(dice.random() < recipe.chain_p)
    shown: list[Tensor] = []
    place: list[np.ndarray] = []
    moved: list[np.ndarray] = []
    facts: list[np.ndarray] = []
    branches: list[list[list[Question]]] = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])
        world = World.generate(seed, frames, camera_of(rng, recipe) if augment else "still")
        px = pixels(world.render())
        shown.append(wear(px, rng) if augment and rng.random() < recipe.worn_p else px)
        moved.append(motion.targets(world))
        facts.append(memory.targets(world))
        place.append(positions(rng if augment else None, frames, recipe, prefix_tokens))
        at = times
        if at is None:
            at = np.sort(
                rng.integers(min(3, frames - 1), frames, -(-questions // _QUESTIONS_PER_TIME))
            ).tolist()
        per_time = max(1, round(questions / len(at)))
        asked = world.questions(rng, at, per_time, weights, age)
        branches.append(_branches_of(asked, chained))
    count = max(1, min(4, frames // 16))
    cut = [
        [b[len(b) * g // count : len(b) * (g + 1) // count] for b in branches] for g in range(count)
    ]
    end_p = 1.0 if learn_end else _END_P if augment else 0.0
    groups = [pack(part, end_p, dice, closing) for part in cut]
    flat = [[[q for branch in stream for q in branch] for stream in part] for part in cut]
    return Batch(
        torch.stack(shown),
        torch.from_numpy(np.stack(place)),
        torch.from_numpy(np.stack(moved)),
        torch.from_numpy(np.stack(facts)),
        groups,
        flat,
    )
