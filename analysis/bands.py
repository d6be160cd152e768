"""Are there three bands of layers, where do they end, and do the paper's 10 / 60 / 30 fit this model?

Features per layer - recency, anchors, concentration - are drawn as curves over depth with no bands assumed.
Change points are chosen on development streams; on held-out streams those bands are compared with a straight
trend (are there bands at all?), with the paper's edges, and with every other pair of edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

from analysis.claims import Claim, Finding, Need, Role, judge
from analysis.context import Split, StudyContext
from analysis.estimators.changepoint import (
    Partition,
    find_partition,
    fit_steps,
    line_curve,
    paper_edges,
    step_curve,
)
from analysis.estimators.recency import newest_share
from analysis.result import FigureSpec, StudyResult, Table
from analysis.structure import curve_table, leave_one_out, panel, panel_table

Array = npt.NDArray[np.float64]
FEATURES = ("log recency", "log anchor share", "entropy", "top 5 % mass")
PAPER = "HERMES (arXiv 2601.14724), section 3: bands end at 10 % and 70 % of the layers"
NULLS: dict[str, Role] = {
    "gradual trend": "exceed",
    "random_weights": "exceed",
    "permuted_weights": "exceed",
    "moving_camera": "context",
    "half_length": "context",
    "half_rate": "context",
}
EDGE_NULLS: dict[str, Role] = {
    "other edges": "exceed",
    "random_weights": "exceed",
    "moving_camera": "context",
    "half_length": "context",
    "half_rate": "context",
}


def _needs(roles: dict[str, Role]) -> tuple[Need, ...]:
    return tuple(
        Need(name, role, 3 if name == "random_weights" else 1)
        for name, role in roles.items()
        if role != "context"
    )


CLAIMS = (
    Claim(
        key="bands-exist",
        sentence="Three bands with sharp edges describe the change of attention over depth better than a "
        "gradual trend does.",
        metric="squared error on held-out streams of a straight line over depth, less that of three levels "
        "with edges and levels fitted on development streams, over the variance between layers",
        refuted_if="a straight line predicts held-out streams as well, or random networks prefer bands as much",
        needs=_needs(NULLS),
        reference=0.0,
        smallest_effect=0.05,
        status="confirmed",
        paper=PAPER,
    ),
    Claim(
        key="paper-bands-fit",
        sentence="The paper's edges, 10 % and 70 % of the layers, separate this model's layers better than "
        "other pairs of edges do.",
        metric="median squared error over all other pairs of edges, less the error at the paper's edges, on "
        "held-out streams with levels from development streams, over the variance between layers",
        refuted_if="the paper's edges do no better than half of all other pairs",
        needs=_needs(EDGE_NULLS),
        reference=0.0,
        smallest_effect=0.05,
        status="confirmed",
        paper=PAPER,
    ),
)


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    window = max(1, context.settings.frames // context.layout.frames_per_group // 10)
    cached: dict[tuple[str, Split], Array] = {}

    def curves(name: str, split: Split = "held_out") -> Array:
        """Unscaled features, [stream, layer, feature]."""
        if (name, split) not in cached:
            cached[name, split] = layer_features(context, name, split, window).mean(2)
        return cached[name, split]

    partition = find_partition(curves("trained", "development"), draws=500)
    edges = paper_edges(context.layers)
    paper = (max(1, edges[0]), edges[1])

    def bands_exist(name: str) -> Array:
        train, test = _scaled(context, curves, name)
        mine = find_edges(train)
        return _error(line_curve(train.mean(0)), test) - _error(
            step_curve(train.mean(0), mine), test
        )

    def paper_fits(name: str) -> Array:
        train, test = _scaled(context, curves, name)
        rest = [
            _error(step_curve(train.mean(0), pair), test)
            for pair in combinations(range(1, context.layers), 2)
            if pair != paper
        ]
        return np.median(rest, axis=0) - _error(step_curve(train.mean(0), paper), test)

    zero = np.zeros(len(context.held_out))
    exist, fit = CLAIMS
    findings = judge(
        [
            (exist, *panel(context, bands_exist, NULLS, 0.0, {"gradual trend": zero})),
            (fit, *panel(context, paper_fits, EDGE_NULLS, 0.0, {"other edges": zero})),
        ]
    )
    tested = find_partition(curves("trained"), draws=500)
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
            _feature_table(context, curves),
            _head_features(context, window),
            _partition_table(partition, tested, paper),
            _model_table(partition, tested),
            panel_table("nulls", findings),
        ),
        figures=(
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
            FigureSpec(
                "panel", "null_panel", ("nulls",), "Null panel",
                "Each claim's metric beside every control, on one axis.",
                "Anything about other streams or models.",
            ),
        ),
        negatives=_negatives(findings, partition, paper),
        robustness=(
            leave_one_out(bands_exist("trained"), "gain of bands over a trend"),
            f"edges found on held-out streams instead: {tested.edges[0]} and {tested.edges[1]}",
            "edges with one feature left out: "
            + ", ".join(
                f"without {name}: {'/'.join(map(str, found))}"
                for name, found in _without(curves("trained", "development"))
            ),
            f"streams of half the length: {bands_exist('half_length').mean():.3g}",
        ),
        analyses=len(findings) + len(list(combinations(range(1, context.layers), 2))) + 5,
        reproduce=context.reproduce(f"edges {partition.edges[0]} and {partition.edges[1]} on development streams, exactly"),
        scope=context.scope,
        covers=("per_head", "nulls", "robustness"),
    )  # fmt: skip


def layer_features(context: StudyContext, name: str, split: Split, window: int) -> Array:
    """Features of every head, [stream, layer, head, feature]; anchors at the development slot."""
    found = context.observe(name, split)
    source = name if "weights-" in name else "trained"
    slot = context.observe(source, "development").question("slots").mean(0).argmax(-1)
    slots = found.question("slots")
    index = np.broadcast_to(slot[None, ..., None], (*slots.shape[:3], 1))
    anchors = np.take_along_axis(slots, index, -1)[..., 0]
    recency = newest_share(found.question("profile"), window)
    parts = (
        np.log(np.maximum(recency, 1e-3)),
        np.log(np.maximum(anchors, 1e-3)),
        found.question("entropy"),
        found.question("top_mass"),
    )
    return np.stack(parts, -1)


def automatic_partition(context: StudyContext) -> Partition:
    """The bands of this model, chosen on development streams only."""
    window = max(1, context.settings.frames // context.layout.frames_per_group // 10)
    return find_partition(layer_features(context, "trained", "development", window).mean(2))


def find_edges(train: Array) -> Array:
    """Edges of the best two changes of a mean curve, from [stream, layer, feature]."""
    return fit_steps(train.mean(0), 2)[0]


def _scaled(context: StudyContext, curves: Callable[..., Array], name: str) -> tuple[Array, Array]:
    """Development and held-out curves in units of the development spread over layers."""
    source = name if "weights-" in name else "trained"
    train = curves(source, "development")
    test = curves(name, "held_out")
    spread = train.mean(0).std(0)
    spread = np.where(spread > 0, spread, 1)
    centre = train.mean((0, 1))
    return (train - centre) / spread, (test - centre) / spread


def _error(curve: Array, test: Array) -> Array:
    """Mean squared error of a curve on every stream; 1 is the variance between layers on development streams."""
    return ((test - curve) ** 2).mean((1, 2))


def _without(values: Array) -> list[tuple[str, tuple[int, int]]]:
    """The edges when each feature is left out."""
    out: list[tuple[str, tuple[int, int]]] = []
    for i, name in enumerate(FEATURES):
        out.append((name, find_partition(np.delete(values, i, axis=2), draws=20).edges))
    return out


# --- tables --------------------------------------------------------------------------------------------
def _feature_table(context: StudyContext, curves: Callable[..., Array]) -> Table:
    """Every feature by layer, trained and under nulls."""
    rows: list[tuple[str | int | float, ...]] = []
    for name in ("trained", "moving_camera", "random_weights-0", "permuted_weights-0"):
        values = curves(name)
        for i, feature in enumerate(FEATURES):
            table = curve_table("t", "layer", {name: values[..., i]}, "")
            rows += [(feature, *row) for row in table.rows]
    return Table(
        "features",
        ("feature", "series", "layer", "value", "low", "high"),
        tuple(rows),
        "Features by layer, means over heads and questions.",
    )


def _head_features(context: StudyContext, window: int) -> Table:
    """Every feature of every head, mean over streams."""
    rows: list[tuple[str | int | float, ...]] = []
    for name in ("trained", "random_weights-0"):
        values = layer_features(context, name, "held_out", window).mean(0)
        for i, feature in enumerate(FEATURES):
            for layer, head in np.ndindex(values.shape[:2]):
                rows.append((feature, name, layer, head, float(values[layer, head, i])))
    return Table(
        "head_features",
        ("feature", "series", "layer", "head", "value"),
        tuple(rows),
        "Features by head, mean over streams.",
    )


def _partition_table(found: Partition, tested: Partition, paper: Sequence[int]) -> Table:
    """Edges with intervals beside the paper's."""
    rows: list[tuple[str | int | float, ...]] = []
    for source, p in (("development", found), ("held out", tested)):
        for i, edge in enumerate(p.edges):
            ends = (float(p.intervals.low[i]), float(p.intervals.high[i]))
            rows.append((source, i + 1, edge, *ends, p.support, paper[i]))
    columns = ("source", "change", "first_layer", "low", "high", "support", "paper")
    return Table(
        "partition",
        columns,
        tuple(rows),
        "First layer of the middle and of the deep band, with intervals over streams.",
    )


def _model_table(found: Partition, tested: Partition) -> Table:
    """Share of the change over depth that each description predicts on left-out streams."""
    rows = [
        (source, name, value)
        for source, p in (("development", found), ("held out", tested))
        for name, value in p.models.explained.items()
    ]
    return Table(
        "depth_models",
        ("source", "description", "explained"),
        tuple(rows),
        "Leave-one-stream-out: 0 is one level for all layers, 1 a level of its own for every layer.",
    )


def _negatives(
    findings: Sequence[Finding], found: Partition, paper: Sequence[int]
) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    explained = found.models.explained
    low, high = found.intervals.low, found.intervals.high
    inside = [bool(low[i] <= paper[i] <= high[i]) for i in (0, 1)]
    said = [
        f"Automatic edges at layers {found.edges[0]} and {found.edges[1]} (support {found.support:.0%}); the "
        f"paper's are {paper[0]} and {paper[1]}, {'inside' if all(inside) else 'not both inside'} the intervals.",
        f"Explained on left-out development streams: line {explained['line']:.2f}, one change "
        f"{explained['one_change']:.2f}, two changes {explained['two_changes']:.2f} (free curve: 1).",
    ]
    said += [
        f"{f.claim.key}: {f.verdict}. {f.because}" for f in findings if f.verdict != "supported"
    ]
    return tuple(said)
