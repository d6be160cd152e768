"""What it costs to hide the anchor slot in deep layers, beside one random other slot of every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis import interventions as knock
from analysis.answers import LEAST_COST, Target
from analysis.arrays import Array, Arrays
from analysis.context import StudyContext
from analysis.result import Table
from analysis.streams import HORIZONS, Grid, Stream, encode, feed
from analysis.structure import curve_table


@dataclass(frozen=True)
class Hidden:
    """Margins of the answer, [stream, horizon].

    Attributes:
        base: nothing hidden.
        video: all video hidden from all layers.
        anchors: the anchor slot of every frame hidden in deep layers.
        random: one random other slot of every frame hidden there, [stream, horizon, draw].
    """

    base: Array
    video: Array
    anchors: Array
    random: Array

    @property
    def cost(self) -> Array:
        """Cost of hiding all video, [stream]."""
        return (self.base - self.video).mean(1)

    @property
    def unit(self) -> float:
        """Mean of that cost, in which drops are given."""
        return max(float(self.cost.mean()), LEAST_COST)

    @property
    def drop(self) -> Array:
        """Drop when the anchors are hidden, in that unit, [stream]."""
        return (self.base - self.anchors).mean(1) / self.unit

    @property
    def random_drops(self) -> Array:
        """The same for random slots, [draw, stream]."""
        return (self.base[..., None] - self.random).mean(1).T / self.unit


def measure(context: StudyContext, slot: int) -> Hidden:
    """Margins of all causal streams, resumable stream by stream."""
    layers, draws = context.paper_bands[2], context.settings.control_draws

    def one(stream: Stream) -> Arrays:
        session = feed(context.lab, encode(context.lab, stream, chunk_frames=16))
        grid = Grid.of(session)
        rng = np.random.default_rng(stream.seed)
        margins: dict[str, list[Array]] = {h: [] for h in HORIZONS}
        for question in stream.questions(context.settings.per_horizon):
            sets = [knock.random_slots(grid, slot, rng) for _ in range(draws)]
            conditions = [
                knock.untouched(session),
                knock.condition(session, range(context.layers), grid.ids),
                *(knock.condition(session, layers, ids) for ids in (knock.slot(grid, slot), *sets)),
            ]
            logits = knock.knocked_logits(session, question.text, conditions)
            margins[question.horizon].append(Target.of(session, question).margin(logits))
        found = np.stack([np.mean(margins[h], axis=0) for h in HORIZONS])
        names = ("base", "video", "anchors")
        single: Arrays = {name: found[:, i : i + 1] for i, name in enumerate(names)}
        return {**single, "random": found[:, None, 3:]}

    made = context.per_stream(
        "anchors", context.causal, one, slot, draws, context.settings.per_horizon
    )

    def all_streams(name: str) -> Array:
        return np.stack([m[name] for m in made]).astype(float)[:, :, 0]

    return Hidden(*(all_streams(name) for name in ("base", "video", "anchors", "random")))


def drop_table(hidden: Hidden) -> Table:
    """Drops by horizon, anchors beside random slots."""
    curves = {
        "anchors": hidden.base - hidden.anchors,
        "random slots": (hidden.base[..., None] - hidden.random).mean(2),
    }
    table = curve_table("knockout", "horizon", curves, "Drop of the answer's margin in logits.")
    rows = tuple((series, HORIZONS[int(point)], *rest) for series, point, *rest in table.rows)
    return Table(table.name, table.columns, rows, table.caption)
