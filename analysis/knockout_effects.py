"""Every knockout of the knockout study: token sets, layer ranges, matched random sets, doses - and their effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis import interventions as knock
from analysis.answers import Target, divergence
from analysis.context import StudyContext
from analysis.observe import question_rows
from analysis.store import Arrays
from analysis.streams import HORIZONS, Grid, Stream, encode, feed
from analysis.structure import deep_slot
from hermes_lab.session import StreamSession

Array = npt.NDArray[np.float64]
DOSES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Effects:
    """Margins of all streams under all conditions.

    Attributes:
        labels: names of the conditions, "direction|layers|set|version".
        margin, right, moved: logit margin, 1 for a right answer, divergence of the answer's distribution in
            nats; [stream, horizon, condition].
        unit: mean cost of hiding all video from all layers, by horizon.
    """

    labels: tuple[str, ...]
    margin: Array
    right: Array
    moved: Array
    unit: Array

    def index(self, label: str) -> int:
        """Number of a condition."""
        return self.labels.index(label)

    def drop(self, label: str, horizon: int) -> Array:
        """Relative drop of the margin per stream under one condition, [stream]."""
        change = self.margin[:, horizon, 0] - self.margin[:, horizon, self.index(label)]
        return change / self.unit[horizon]

    def versions(self, prefix: str) -> list[str]:
        """All random versions of a condition."""
        return [label for label in self.labels if label.startswith(prefix)]

    def drops(self, prefix: str, horizon: int) -> Array:
        """Relative drops of all random versions, [version, stream]."""
        return np.stack([self.drop(label, horizon) for label in self.versions(prefix)])

    @staticmethod
    def parts(label: str) -> tuple[str, str, str, str]:
        """Direction, layers, set and version of a condition; empty where it has none."""
        direction, where, name, version = (label.split("|") + [""] * 3)[:4]
        return direction, where, name, version


def measure(context: StudyContext) -> Effects:
    """Margins of every causal stream under every condition, resumable stream by stream."""
    slot = deep_slot(context)
    draws = context.settings.control_draws

    def one(stream: Stream) -> Arrays:
        session = feed(
            context.lab,
            encode(context.lab, stream, chunk_frames=context.settings.chunk_frames),
        )
        grid = Grid.of(session)
        found: dict[str, list[list[Array]]] = {h: [] for h in HORIZONS}
        labels: list[str] = []
        for number, question in enumerate(stream.questions(context.settings.per_horizon)):
            rng = np.random.default_rng((stream.seed, number))
            plan = conditions(context, session, grid, question.text, slot, draws, rng)
            labels = list(plan)
            logits = knock.knocked_logits(session, question.text, list(plan.values()))
            target = Target.of(session, question)
            found[question.horizon].append(
                [target.margin(logits), target.right(logits), divergence(logits[0], logits)]
            )
        means = np.stack([np.mean(found[h], axis=0) for h in HORIZONS])
        return {"values": means, "labels": np.asarray(labels)}

    made = context.per_stream(
        "knockout", context.causal, one, slot, draws, context.settings.per_horizon, context.layers
    )
    labels = tuple(str(label) for label in made[0]["labels"])
    values = np.stack([m["values"] for m in made]).astype(float)
    margin, right, moved = values[:, :, 0], values[:, :, 1], values[:, :, 2]
    everything = labels.index("hide|all|video|set")
    unit = np.maximum((margin[..., 0] - margin[..., everything]).mean(0), 0.2)
    return Effects(labels, margin, right, moved, unit)


def ranges(context: StudyContext) -> dict[str, list[int]]:
    """Layer ranges by name: bands, all, and as many first and last layers as the other end's band has."""
    shallow, middle, deep = (list(b) for b in context.paper_bands)
    layers = context.layers
    return {
        "shallow": shallow,
        "middle": middle,
        "deep": deep,
        "all": list(range(layers)),
        "last": list(range(layers - len(shallow), layers)),
        "first": list(range(len(deep))),
    }


def windows(layers: int, count: int = 6) -> list[list[int]]:
    """Layers in `count` (or fewer) consecutive windows of nearly equal width."""
    parts = np.array_split(np.arange(layers), min(count, layers))
    return [[int(layer) for layer in part] for part in parts]


def conditions(
    context: StudyContext,
    session: StreamSession,
    grid: Grid,
    question: str,
    slot: int,
    draws: int,
    rng: np.random.Generator,
) -> dict[str, knock.Condition]:
    """Every condition of one question, by name; the first hides nothing."""
    newest = max(1, grid.frames // 10)
    video = grid.ids.ravel()
    sets: dict[str, tuple[knock.Ids, list[knock.Ids]]] = {
        "recent": (
            knock.recent(grid, newest),
            [knock.random_frames(grid, newest, rng) for _ in range(draws)],
        ),
        "anchors": (
            knock.slot(grid, slot),
            [knock.random_slots(grid, slot, rng) for _ in range(draws)],
        ),
    }
    for name, ids in (
        ("top", _most_attended(session, grid, question, context.paper_bands[2])),
        ("sinks", _sinks(grid)),
    ):
        sets[name] = (
            ids,
            [knock.random_tokens(grid, len(ids), ids, rng) for _ in range(draws)],
        )
    plan = {"base": knock.untouched(session)}

    def add(label: str, layers: Sequence[int], ids: npt.ArrayLike) -> None:
        plan[label] = knock.condition(session, layers, ids)

    named = ranges(context)
    for where in ("shallow", "middle", "deep", "all"):
        for name, (ids, random) in sets.items():
            for version, chosen in (
                ("set", ids),
                *((f"random{i}", r) for i, r in enumerate(random)),
            ):
                add(f"hide|{where}|{name}|{version}", named[where], chosen)
                add(f"keep|{where}|{name}|{version}", named[where], knock.others(grid, chosen))
        add(f"hide|{where}|older|set", named[where], knock.older(grid, newest))
        rest = np.setdiff1d(knock.older(grid, newest), knock.slot(grid, slot))
        add(f"hide|{where}|rest|set", named[where], rest)
        add(f"hide|{where}|video|set", named[where], video)
    recent, random = sets["recent"]
    add("hide|last|recent|set", named["last"], recent)
    add("hide|first|older|set", named["first"], knock.older(grid, newest))
    for i, ids in enumerate(random):
        add(f"hide|last|recent|random{i}", named["last"], ids)
    for i, layers in enumerate(windows(context.layers)):
        add(f"window|{i}|recent|set", layers, recent)
        add(f"window|{i}|older|set", layers, knock.older(grid, newest))
        add(f"window|{i}|recent|random0", layers, random[0])
    for frames in (d for d in DOSES if d <= grid.frames // 2):
        ids, matched = knock.recent(grid, frames), knock.random_frames(grid, frames, rng)
        for version, chosen in (("set", ids), ("random0", matched)):
            add(f"dose hide|{frames}|recent|{version}", named["all"], chosen)
            add(f"dose keep|{frames}|recent|{version}", named["all"], knock.others(grid, chosen))
    return plan


def _most_attended(
    session: StreamSession, grid: Grid, question: str, layers: Sequence[int]
) -> knock.Ids:
    """The twentieth of the video tokens to which this question attends most in some layers."""
    last, _, _ = question_rows(session, grid, question)
    weight = last[list(layers)].mean((0, 1)).ravel()
    count = max(1, weight.size // 20)
    return np.sort(grid.ids.ravel()[np.argsort(-weight, kind="stable")[:count]])


def _sinks(grid: Grid) -> knock.Ids:
    """The first cached token and the first video token, where models with sinks have them (arXiv 2309.17453)."""
    return np.unique([0, grid.ids[0, 0]])
