"""Every knockout of the knockout study: token sets, layer ranges, matched random sets, doses - and their effects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from analysis import interventions as knock
from analysis.answers import LEAST_COST, Target, divergence
from analysis.arrays import Array, Arrays, Ints
from analysis.context import StudyContext
from analysis.observe import question_rows
from analysis.streams import HORIZONS, Grid, Stream, encode, feed
from analysis.structure import deep_slot
from hermes_lab.errors import LabError
from hermes_lab.stream.session import StreamSession

DOSES = (1, 2, 4, 8, 16, 32)


Action = Literal["nothing", "hide", "keep"]
Tokens = Literal["", "recent", "anchors", "top", "sinks", "older", "rest", "video"]
Layers = Literal["", "shallow", "middle", "deep", "all", "last", "first"]
PLAN_VERSION = 2
"""Raised when the conditions or how they are stored change, so that stored margins are not used again."""


@dataclass(frozen=True)
class Cut:
    """Which condition: what is done to which tokens, and where.

    Attributes:
        action: hide the tokens, or keep them alone of the video.
        tokens: the set; "" where nothing is done.
        layers: a range of layers by name; "" where `window` says which.
        window: number of a window of consecutive layers.
        frames: size of the set in frames, where it is varied.
        draw: None for the set itself, else which random set of its size.
    """

    action: Action
    tokens: Tokens = ""
    layers: Layers = ""
    window: int | None = None
    frames: int | None = None
    draw: int | None = None

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: object) -> Cut:
        """The condition that `str` wrote."""
        return cls(**json.loads(str(text)))


UNTOUCHED = Cut("nothing")
NO_VIDEO = Cut("hide", "video", "all")


@dataclass(frozen=True)
class Effects:
    """Margins of all streams under all conditions.

    Attributes:
        cuts: the conditions.
        margin, right, moved: logit margin, 1 for a right answer, divergence of the answer's distribution in
            nats; [stream, horizon, condition].
        unit: mean cost of hiding all video from all layers, by horizon.
    """

    cuts: tuple[Cut, ...]
    margin: Array
    right: Array
    moved: Array
    unit: Array

    def index(self, cut: Cut) -> int:
        """Number of a condition.

        Raises:
            LabError: it was not run.
        """
        if cut not in self.cuts:
            raise LabError(f"The knockout {cut} was not run; add it to the study's conditions.")
        return self.cuts.index(cut)

    def left(self, cut: Cut, horizon: int) -> Array:
        """Margin under one condition per stream, in units of hiding all video, [stream]."""
        return self.margin[:, horizon, self.index(cut)] / self.unit[horizon]

    @property
    def cost(self) -> Array:
        """Cost of hiding all video from all layers, [stream, horizon]."""
        untouched, everything = self.index(UNTOUCHED), self.index(NO_VIDEO)
        return self.margin[..., untouched] - self.margin[..., everything]

    def drop(self, cut: Cut, horizon: int) -> Array:
        """Relative drop of the margin per stream under one condition, [stream]."""
        untouched = self.margin[:, horizon, self.index(UNTOUCHED)]
        return (untouched - self.margin[:, horizon, self.index(cut)]) / self.unit[horizon]

    def random(self, cut: Cut) -> list[Cut]:
        """The matched random versions of a condition that was run."""
        self.index(cut)
        return [c for c in self.cuts if c.draw is not None and replace(c, draw=None) == cut]

    def random_drops(self, cut: Cut, horizon: int) -> Array:
        """Relative drops of all random versions, [version, stream]."""
        return np.stack([self.drop(version, horizon) for version in self.random(cut)])


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
        cuts: list[str] = []
        for number, question in enumerate(stream.questions(context.settings.per_horizon)):
            rng = np.random.default_rng((stream.seed, number))
            plan = conditions(context, session, grid, question.text, slot, draws, rng)
            cuts = [str(cut) for cut in plan]
            logits = knock.knocked_logits(session, question.text, list(plan.values()))
            target = Target.of(session, question)
            found[question.horizon].append(
                [target.margin(logits), target.right(logits), divergence(logits[0], logits)]
            )
        means = np.stack([np.mean(found[h], axis=0) for h in HORIZONS])
        return {"values": means, "cuts": np.asarray(cuts)}

    made = context.per_stream(
        "knockout", context.causal, one, slot, draws, context.settings.per_horizon, context.layers,
        PLAN_VERSION,
    )  # fmt: skip
    cuts = tuple(Cut.read(text) for text in made[0]["cuts"])
    values = np.stack([m["values"] for m in made]).astype(float)
    margin, right, moved = values[:, :, 0], values[:, :, 1], values[:, :, 2]
    untouched, everything = cuts.index(UNTOUCHED), cuts.index(NO_VIDEO)
    unit = np.maximum((margin[..., untouched] - margin[..., everything]).mean(0), LEAST_COST)
    return Effects(cuts, margin, right, moved, unit)


def ranges(context: StudyContext) -> dict[Layers, list[int]]:
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


@dataclass(frozen=True)
class TokenSet:
    """Tokens that are hidden or kept, and random sets of the same size and shape."""

    ids: Ints
    random: tuple[Ints, ...]

    def draws(self) -> list[tuple[int | None, Ints]]:
        """The set itself (None) and its random versions by number."""
        return [(None, self.ids), *enumerate(self.random)]


def token_sets(
    context: StudyContext,
    session: StreamSession,
    grid: Grid,
    question: str,
    slot: int,
    draws: int,
    rng: np.random.Generator,
) -> dict[Tokens, TokenSet]:
    """Every set of tokens that has matched random ones."""
    newest, times = _newest(grid), range(draws)
    frames = [knock.random_frames(grid, newest, rng) for _ in times]
    slots = [knock.random_slots(grid, slot, rng) for _ in times]
    found: dict[Tokens, TokenSet] = {
        "recent": TokenSet(knock.recent(grid, newest), tuple(frames)),
        "anchors": TokenSet(knock.slot(grid, slot), tuple(slots)),
    }
    few: dict[Tokens, Ints] = {
        "top": _most_attended(session, grid, question, context.paper_bands[2]),
        "sinks": _sinks(grid),
    }
    for tokens, ids in few.items():
        random = [knock.random_tokens(grid, len(ids), ids, rng) for _ in times]
        found[tokens] = TokenSet(ids, tuple(random))
    return found


def conditions(
    context: StudyContext,
    session: StreamSession,
    grid: Grid,
    question: str,
    slot: int,
    draws: int,
    rng: np.random.Generator,
) -> dict[Cut, knock.Condition]:
    """Every condition of one question; the first hides nothing."""
    sets = token_sets(context, session, grid, question, slot, draws, rng)
    older, recent = knock.older(grid, _newest(grid)), sets["recent"]
    named = ranges(context)
    layers_of = dict(enumerate(windows(context.layers)))
    plan = {UNTOUCHED: knock.untouched(session)}

    def add(cut: Cut, ids: npt.ArrayLike) -> None:
        layers = named[cut.layers] if cut.window is None else layers_of[cut.window]
        hidden = knock.others(grid, ids) if cut.action == "keep" else ids
        plan[cut] = knock.condition(session, layers, hidden)

    for where in ("shallow", "middle", "deep", "all"):
        for tokens, chosen in sets.items():
            for draw, ids in chosen.draws():
                add(Cut("hide", tokens, where, draw=draw), ids)
                add(Cut("keep", tokens, where, draw=draw), ids)
        add(Cut("hide", "older", where), older)
        add(Cut("hide", "rest", where), np.setdiff1d(older, knock.slot(grid, slot)))
        add(Cut("hide", "video", where), grid.ids)
    add(Cut("hide", "recent", "last"), recent.ids)
    add(Cut("hide", "older", "first"), older)
    for draw, ids in enumerate(recent.random):
        add(Cut("hide", "recent", "last", draw=draw), ids)
    for window in layers_of:
        add(Cut("hide", "recent", window=window), recent.ids)
        add(Cut("hide", "older", window=window), older)
        add(Cut("hide", "recent", window=window, draw=0), recent.random[0])
    for frames in (d for d in DOSES if d <= grid.frames // 2):
        ids, matched = knock.recent(grid, frames), knock.random_frames(grid, frames, rng)
        for draw, chosen in ((None, ids), (0, matched)):
            add(Cut("hide", "recent", "all", frames=frames, draw=draw), chosen)
            add(Cut("keep", "recent", "all", frames=frames, draw=draw), chosen)
    return plan


def _newest(grid: Grid) -> int:
    """How many frames count as the newest."""
    return max(1, grid.frames // 10)


def _most_attended(
    session: StreamSession, grid: Grid, question: str, layers: Sequence[int]
) -> Ints:
    """The twentieth of the video tokens to which this question attends most in some layers."""
    last, _, _ = question_rows(session, grid, question)
    weight = last[list(layers)].mean((0, 1)).ravel()
    count = max(1, weight.size // 20)
    return np.sort(grid.ids.ravel()[np.argsort(-weight, kind="stable")[:count]])


def _sinks(grid: Grid) -> Ints:
    """The first cached token and the first video token, where models with sinks have them (arXiv 2309.17453)."""
    return np.unique([0, grid.ids[0, 0]])
