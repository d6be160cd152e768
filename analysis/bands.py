"""Are there three bands of layers, where do they end, and do the paper's 10 / 60 / 30 fit this model?

Features per layer - recency, anchors, concentration - are drawn as curves over depth with no bands assumed.
Change points are chosen on development streams; on held-out streams those bands are compared with a straight
trend (are there bands at all?), with the paper's edges, and with every other pair of edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

import numpy as np

from analysis.arrays import Array, Ints
from analysis.claims import Claim, ControlRole, Finding, judge
from analysis.context import Split, StudyContext
from analysis.estimators.changepoint import (
    Partition,
    find_partition,
    fit_steps,
    line_curve,
    step_curve,
)
from analysis.estimators.recency import newest_share
from analysis.result import FigureSpec, StudyResult, Table
from analysis.structure import (
    NULL_PANEL,
    at_slot,
    curve_table,
    leave_one_out,
    needs_of,
    panel,
    panel_table,
    unsupported,
)

FEATURES = ("log recency", "log anchor share", "entropy", "top 5 % mass")
PAPER = "HERMES (arXiv 2601.14724), section 3: bands end at 10 % and 70 % of the layers"
NULLS: dict[str, ControlRole] = {
    "gradual trend": "exceed",
    "random_weights": "exceed",
    "permuted_weights": "exceed",
    "moving_camera": "context",
    "half_length": "context",
    "half_rate": "context",
}
EDGE_NULLS: dict[str, ControlRole] = {
    "other edges": "exceed",
    "random_weights": "exceed",
    "moving_camera": "context",
    "half_length": "context",
    "half_rate": "context",
}


CLAIMS = (
    Claim(
        key="bands-exist",
        sentence="Three bands with sharp edges describe the change of attention over depth better than a "
        "gradual trend does.",
        metric="squared error on held-out streams of a straight line over depth, minus that of three levels "
        "with edges and levels fitted on development streams, over the variance between layers",
        refuted_if="a straight line predicts held-out streams as well, or random networks prefer bands as much",
        needs=needs_of(NULLS),
        reference=0.0,
        smallest_effect=0.05,
        status="confirmatory",
        paper=PAPER,
    ),
    Claim(
        key="paper-bands-fit",
        sentence="The paper's edges, 10 % and 70 % of the layers, separate this model's layers better than "
        "other pairs of edges do.",
        metric="median squared error over all other pairs of edges, minus the error at the paper's edges, on "
        "held-out streams with levels from development streams, over the variance between layers",
        refuted_if="the paper's edges do no better than half of all other pairs",
        needs=needs_of(EDGE_NULLS),
        reference=0.0,
        smallest_effect=0.05,
        status="confirmatory",
        paper=PAPER,
    ),
)


@dataclass
class Measured:
    """Curves of the features over depth under every variant, and the two partitions that were found on them.

    Attributes:
        paper: the paper's edges, at least one layer shallow.
        found: change points on development streams, by which the claims are tested.
        tested: change points on held-out streams, for comparison.
    """

    context: StudyContext
    paper: tuple[int, int]
    _curves: dict[tuple[str, Split], Array] = field(default_factory=dict[tuple[str, Split], Array])

    def curves(self, name: str, split: Split = "held_out") -> Array:
        """Unscaled features, means over heads, [stream, layer, feature]."""
        if (name, split) not in self._curves:
            self._curves[name, split] = layer_features(self.context, name, split).mean(2)
        return self._curves[name, split]

    @cached_property
    def found(self) -> Partition:
        """Change points on development streams."""
        return find_partition(self.curves("trained", "development"), draws=500)

    @cached_property
    def tested(self) -> Partition:
        """Change points on held-out streams."""
        return find_partition(self.curves("trained"), draws=500)

    def scaled(self, name: str) -> tuple[Array, Array]:
        """Development and held-out curves in units of the development spread over layers."""
        train = self.curves(self.context.chooser(name), "development")
        test = self.curves(name, "held_out")
        spread = train.mean(0).std(0)
        spread = np.where(spread > 0, spread, 1)
        centre = train.mean((0, 1))
        return (train - centre) / spread, (test - centre) / spread

    def gain_over_trend(self, name: str) -> Array:
        """How much better three levels predict held-out streams than a straight line does, [stream]."""
        train, test = self.scaled(name)
        mine = step_curve(train.mean(0), find_edges(train))
        return _error(line_curve(train.mean(0)), test) - _error(mine, test)

    def gain_over_edges(self, name: str) -> Array:
        """How much better the paper's edges do than the median of all other pairs, [stream]."""
        train, test = self.scaled(name)
        rest = [
            _error(step_curve(train.mean(0), pair), test)
            for pair in combinations(range(1, self.context.layers), 2)
            if pair != self.paper
        ]
        return np.median(rest, axis=0) - _error(step_curve(train.mean(0), self.paper), test)


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    shallow, middle, _ = context.paper_bands
    measured = Measured(context, (shallow.stop, middle.stop))
    findings = judged(measured)
    first, second = measured.found.edges
    return StudyResult(
        study="bands",
        title="Bands: how attention changes over depth",
        question=(__doc__ or "").split("\n")[0],
        structural=True,
        quick=context.quick,
        setup=context.setup(
            prompts=("questions of the worlds; see recency",), query_rows="question's last token"
        ),
        data=context.data(moving=True),
        findings=findings,
        tables=(
            feature_table(measured),
            head_features(context),
            partition_table(measured),
            model_table(measured),
            panel_table("nulls", findings),
        ),
        figures=FIGURE_SPECS,
        negatives=surprises(findings, measured),
        robustness=robustness(measured),
        analyses=len(findings) + len(list(combinations(range(1, context.layers), 2))) + 5,
        reproduce=context.reproduce(f"edges {first} and {second} on development streams, exactly"),
        scope=context.scope,
        covers=("per_head", "nulls", "robustness"),
    )


def judged(measured: Measured) -> tuple[Finding, ...]:
    """The verdicts on both claims."""
    context = measured.context
    zero = np.zeros(len(context.held_out))
    exist, fit = CLAIMS
    return judge(
        [
            (
                exist,
                *panel(context, measured.gain_over_trend, NULLS, 0.0, {"gradual trend": zero}),
            ),
            (
                fit,
                *panel(context, measured.gain_over_edges, EDGE_NULLS, 0.0, {"other edges": zero}),
            ),
        ]
    )


# --- measurement -------------------------------------------------------------------------------------
def layer_features(context: StudyContext, name: str, split: Split) -> Array:
    """Features of every head, [stream, layer, head, feature]; anchors at the development slot."""
    found = context.observe(name, split)
    tried = context.observe(context.chooser(name), "development").question("slots")
    anchors = at_slot(found.question("slots"), tried.mean(0).argmax(-1))
    recency = newest_share(found.question("profile"), context.newest_frames)
    parts = (
        np.log(np.maximum(recency, 1e-3)),
        np.log(np.maximum(anchors, 1e-3)),
        found.question("entropy"),
        found.question("top_mass"),
    )
    return np.stack(parts, -1)


def automatic_partition(context: StudyContext) -> Partition:
    """The bands of this model, chosen on development streams only."""
    return find_partition(layer_features(context, "trained", "development").mean(2))


def find_edges(train: Array) -> Ints:
    """Edges of the best two changes of a mean curve, from [stream, layer, feature]."""
    return fit_steps(train.mean(0), 2)[0]


def _error(curve: Array, test: Array) -> Array:
    """Mean squared error of a curve on every stream; 1 is the variance between layers on development streams."""
    return ((test - curve) ** 2).mean((1, 2))


# --- tables --------------------------------------------------------------------------------------------
def feature_table(measured: Measured) -> Table:
    """Every feature by layer, trained and under nulls."""
    rows: list[tuple[str | int | float, ...]] = []
    for name in ("trained", "moving_camera", "random_weights-0", "permuted_weights-0"):
        values = measured.curves(name)
        for i, feature in enumerate(FEATURES):
            table = curve_table("t", "layer", {name: values[..., i]}, "")
            rows += [(feature, *row) for row in table.rows]
    return Table(
        "features",
        ("feature", "series", "layer", "value", "low", "high"),
        tuple(rows),
        "Features by layer, means over heads and questions.",
    )


def head_features(context: StudyContext) -> Table:
    """Every feature of every head, mean over streams."""
    rows: list[tuple[str | int | float, ...]] = []
    for name in ("trained", "random_weights-0"):
        values = layer_features(context, name, "held_out").mean(0)
        for i, feature in enumerate(FEATURES):
            for layer, head in np.ndindex(values.shape[:2]):
                rows.append((feature, name, layer, head, float(values[layer, head, i])))
    return Table(
        "head_features",
        ("feature", "series", "layer", "head", "value"),
        tuple(rows),
        "Features by head, mean over streams.",
    )


def partition_table(measured: Measured) -> Table:
    """Edges with intervals beside the paper's."""
    rows: list[tuple[str | int | float, ...]] = []
    for source, p in (("development", measured.found), ("held out", measured.tested)):
        for i, edge in enumerate(p.edges):
            ends = (float(p.intervals.low[i]), float(p.intervals.high[i]))
            rows.append((source, i + 1, edge, *ends, p.support, measured.paper[i]))
    columns = ("source", "change", "first_layer", "low", "high", "support", "paper")
    return Table(
        "partition",
        columns,
        tuple(rows),
        "First layer of the middle and of the deep band, with intervals over streams.",
    )


def model_table(measured: Measured) -> Table:
    """Share of the change over depth that each description predicts on left-out streams."""
    rows = [
        (source, name, value)
        for source, p in (("development", measured.found), ("held out", measured.tested))
        for name, value in p.models.explained.items()
    ]
    return Table(
        "depth_models",
        ("source", "description", "explained"),
        tuple(rows),
        "Leave-one-stream-out: 0 is one level for all layers, 1 a level of its own for every layer.",
    )


# --- figures -------------------------------------------------------------------------------------------
FIGURE_SPECS = (
    FigureSpec(
        "features", "feature_curves", ("features", "partition"), "Features over depth",
        "Recency, anchors and concentration by layer, trained against random networks, with the found "
        "change points and the paper's edges.",
        "What the layers do with what they attend to.",
    ),
    FigureSpec(
        "heads", "feature_heads", ("head_features",), "The same by head",
        "Every head as a point: a band can be a mean over very different heads.",
        "Whether a head matters for the answer.",
    ),
    FigureSpec(
        "models", "depth_models", ("depth_models",), "Bands or a trend?",
        "How much of the change over depth each description predicts on left-out streams.",
        "Anything about a description that was not compared.",
    ),
    NULL_PANEL,
)  # fmt: skip


# --- words ---------------------------------------------------------------------------------------------
def surprises(findings: Sequence[Finding], measured: Measured) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    found, paper = measured.found, measured.paper
    explained = found.models.explained
    low, high = found.intervals.low, found.intervals.high
    inside = all(bool(low[i] <= paper[i] <= high[i]) for i in (0, 1))
    return (
        f"Automatic edges at layers {found.edges[0]} and {found.edges[1]} (support {found.support:.0%}); the "
        f"paper's are {paper[0]} and {paper[1]}, {'inside' if inside else 'not both inside'} the intervals.",
        f"Explained on left-out development streams: line {explained['line']:.2f}, one change "
        f"{explained['one_change']:.2f}, two changes {explained['two_changes']:.2f} (free curve: 1).",
        *unsupported(findings),
    )


def robustness(measured: Measured) -> tuple[str, ...]:
    """How the gain and the edges move with streams, features and lengths."""
    tested, gain = measured.tested, measured.gain_over_trend
    tried = measured.curves("trained", "development")
    without = {
        name: find_partition(np.delete(tried, i, axis=2), draws=20).edges
        for i, name in enumerate(FEATURES)
    }
    return (
        leave_one_out(gain("trained"), "gain of bands over a trend"),
        f"edges found on held-out streams instead: {tested.edges[0]} and {tested.edges[1]}",
        "edges with one feature left out: "
        + ", ".join(f"without {name}: {a}/{b}" for name, (a, b) in without.items()),
        f"streams of half the length: {gain('half_length').mean():.3g}",
    )
