"""Where does attention mass differ from what is contributed, and which of them predicts what matters?

Four measures of every video token at the question's last token: attention mass a; value-weighted
contribution |a * W_O W_V x| (arXiv 2004.10102); direct logit attribution, a * W_O W_V x projected on the
answer's direction; and, frame by frame, what hiding it from every layer costs. The last one
decides: a measure that does not predict it does not measure use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from analysis.claims import Claim, Finding, RequiredControl, judge
from analysis.claims import estimate as estimate_of
from analysis.context import StudyContext
from analysis.contribution_measures import (
    MEASURES,
    PAIRS,
    SETS,
    TOP,
    Measured,
    known_mean,
    measure,
)
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.streams import HORIZONS
from analysis.structure import (
    NULL_PANEL,
    curve_table,
    leave_one_out,
    named_null_panel,
    panel_table,
    unsupported,
)

LEAST = 0.05
_USES_VIDEO = RequiredControl("cost of hiding all video", "capable")
CLAIMS = (
    Claim(
        key="mass-predicts-use",
        sentence="Frames that get more attention from the answer's token matter more to the answer.",
        metric="share of the use (drop of the margin when a frame is hidden everywhere) that falls on the tenth of the "
        "frames with the largest attention mass, summed over layers and heads",
        refuted_if="as much use falls on the newest tenth of the frames, or on a random tenth, within 0.05",
        needs=(RequiredControl("random frames", "exceed"), RequiredControl("newest frames", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), section 3, keeps tokens by attention mass",
    ),
    Claim(
        key="values-predict-use-better",
        sentence="Value-weighted contribution predicts which frames matter better than attention mass does.",
        metric="share of the use on the tenth of the frames with the largest value-weighted contribution",
        refuted_if="attention mass finds as much use, within 0.05",
        needs=(RequiredControl("attention mass", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="Kobayashi et al. 2020 (arXiv 2004.10102)",
    ),
    Claim(
        key="logit-attribution-predicts-use-better",
        sentence="Direct logit attribution predicts which frames matter better than attention mass does.",
        metric="share of the use on the tenth of the frames with the largest direct logit attribution",
        refuted_if="attention mass finds as much use, within 0.05",
        needs=(RequiredControl("attention mass", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
    ),
)  # fmt: skip


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    found = measure(context)
    findings = judged(found)
    ranks, sets = rank_table(found), set_table(found)
    return StudyResult(
        study="contribution",
        title="Contribution: mass, values, logits, use",
        question=(__doc__ or "").split("\n")[0],
        structural=True,
        quick=context.quick,
        setup=context.setup(
            prompts=("questions of the worlds; see recency",), query_rows="question's last token"
        ),
        data=context.data(context.causal),
        findings=findings,
        tables=(
            ranks,
            sets,
            use_table(found),
            head_table(found),
            panel_table("nulls", findings),
        ),
        figures=FIGURE_SPECS,
        negatives=surprises(findings, found),
        robustness=robustness(found),
        analyses=len(findings) + len(ranks.rows) + len(sets.rows),
        reproduce=context.reproduce(
            f"{CLAIMS[0].key} {findings[0].estimate}, within 0.01 on another CPU"
        ),
        scope=context.scope,
        covers=("contribution", "per_head", "nulls"),
    )


def judged(found: Measured) -> tuple[Finding, ...]:
    """The verdicts on the three claims."""
    mass, value, logit, recent, chance = found.by_stream
    able = {_USES_VIDEO.name: found.cost.mean(1)}
    values = (
        (mass, {"random frames": chance, "newest frames": recent}),
        (value, {"attention mass": mass}),
        (logit, {"attention mass": mass}),
    )
    return judge(
        [
            (claim, estimate_of(observed), named_null_panel(observed, nulls, able))
            for claim, (observed, nulls) in zip(CLAIMS, values, strict=True)
        ]
    )


# --- tables --------------------------------------------------------------------------------------------------
def rank_table(found: Measured) -> Table:
    """Agreement of measures over tokens by layer."""
    rows: list[tuple[Any, ...]] = []
    for i, (a, b) in enumerate(PAIRS):
        values = known_mean(found.ranks[..., i], 2)
        table = curve_table("t", "layer", {f"{a} and {b}": values}, "")
        rows += table.rows
    layers = found.ranks.shape[1]
    rows += [("no agreement", layer, 0.0, 0.0, 0.0) for layer in range(layers)]
    return Table(
        "ranks",
        ("series", "layer", "value", "low", "high"),
        tuple(rows),
        "Rank correlation of measures over video tokens, mean over heads.",
    )


def head_table(found: Measured) -> Table:
    """Agreement of mass and values for every head: where the mean hides disagreement."""
    own = cluster_bootstrap(found.ranks)
    overlap = found.overlap.mean(0)
    rows = [
        (
            layer,
            head,
            f"{a} and {b}",
            *own.ends(layer, head, i),
            float(overlap[layer, head, i]),
            TOP,
        )
        for layer, head in np.ndindex(*found.ranks.shape[1:3])
        for i, (a, b) in enumerate(PAIRS)
    ]
    columns = ("layer", "head", "measures", "value", "low", "high", "top_overlap", "chance_overlap")
    return Table(
        "ranks_by_head",
        columns,
        tuple(rows),
        "Rank correlation and overlap of the top 5 % by head.",
    )


def set_table(found: Measured) -> Table:
    """Share of token sets under every measure, over uniform."""
    own = cluster_bootstrap(found.sets)
    rows = [
        (layer, name, measure, *own.ends(layer, i, j))
        for layer in range(found.sets.shape[1])
        for i, name in enumerate(SETS)
        for j, measure in enumerate(MEASURES)
    ]
    return Table(
        "sets",
        ("layer", "set", "measure", "value", "low", "high"),
        tuple(rows),
        "Share of a token set under each measure over its uniform share (1.0).",
    )


def use_table(found: Measured) -> Table:
    """Use found by the top frames of each measure, and rank correlation with use, by horizon."""
    own, rank = cluster_bootstrap(found.captured), found.use.mean(0)
    names = (*MEASURES, "newest frames (null)", "random frames (null)")
    rows = [
        (name, horizon, *own.ends(i, j), float(rank[i, j]) if j < rank.shape[1] else 0.0)
        for i, horizon in enumerate(HORIZONS)
        for j, name in enumerate(names)
    ]
    return Table(
        "use",
        ("series", "horizon", "value", "low", "high", "rank_correlation"),
        tuple(rows),
        "Share of the use (drop when a frame is hidden) on the top tenth of the frames by each measure.",
    )


# --- figures -------------------------------------------------------------------------------------------------
FIGURE_SPECS = (
    FigureSpec(
        "ranks", "depth_curves", ("ranks",), "Do the measures rank tokens alike?",
        "Rank correlation over video tokens, mean over heads, by layer; 0 is no agreement.",
        "Which measure is right: see use.", {"reference": 0.0, "y": "rank correlation"},
    ),
    FigureSpec(
        "sets", "set_shares", ("sets",), "Where they disagree",
        "Share of every measure on token sets, over the uniform share.",
        "Whether the answer needs those tokens.",
    ),
    FigureSpec(
        "use", "use_bars", ("use",), "Which measure predicts what matters?",
        "Share of the use that falls on the tenth of the frames that a measure ranks first, by horizon; the "
        "newest and random frames are the nulls.",
        "Effects of single frames that others repeat: hiding one copy costs nothing.",
    ),
    NULL_PANEL,
)  # fmt: skip


# --- words ---------------------------------------------------------------------------------------------------
def surprises(findings: Sequence[Finding], found: Measured) -> tuple[str, ...]:
    """What did not come out as expected, in numbers."""
    agree = zip(PAIRS, known_mean(found.ranks, (0, 1, 2)), strict=True)
    evidence = known_mean(found.sets[:, :, SETS.index("evidence frames")])
    best = np.nan_to_num(evidence[:, 0]).argmax()
    listed = ", ".join(f"{a} and {b} rank-correlate by {r:.2f}" for (a, b), r in agree)
    return (
        f"Over tokens, {listed} (mean over heads).",
        f"Frames with the evidence get {known_mean(evidence[:, 0]):.2f} times their uniform share of mass on average "
        f"over layers, {evidence[best, 0]:.2f} times in layer {best}.",
        "Direct attribution leaves out what tokens do through later layers.",
        *unsupported(findings),
    )


def robustness(found: Measured) -> tuple[str, ...]:
    """How the use found moves with streams, horizons, and the number of frames that are ranked."""
    by_horizon = zip(HORIZONS, known_mean(found.captured[:, :, 0]), strict=True)
    ranks = (f"{m} {found.use[..., i].mean():.2f}" for i, m in enumerate(MEASURES))
    return (
        leave_one_out(found.by_stream[0], "use found by attention mass"),
        f"by horizon: {', '.join(f'{h} {used:.2f}' for h, used in by_horizon)}",
        f"rank correlation over all frames instead: {', '.join(ranks)}",
        f"frames with a drop above 0.1 logits: {found.needed.mean():.0%} of all, so most frames cannot be ranked by use",
    )
