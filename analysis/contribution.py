"""Where does attention mass differ from what is contributed, and which of them predicts what matters?

Four measures of every video token at the question's last token: attention mass a; value-weighted
contribution |a * W_O W_V x| (arXiv 2004.10102); direct logit attribution, a * W_O W_V x projected on the
answer's direction; and, frame by frame, what hiding it from every layer costs. The last one is the
touchstone: a measure that does not predict it is no measure of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis import interventions as knock
from analysis.answers import Target
from analysis.claims import Claim, Finding, Need, judge
from analysis.claims import estimate as estimate_of
from analysis.context import StudyContext
from analysis.estimators.agreement import spearman, top_mask, top_overlap
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.store import Arrays
from analysis.streams import HORIZONS, Grid, Stream, encode, feed
from analysis.structure import (
    curve_table,
    deep_slot,
    leave_one_out,
    named_null_panel,
    panel_table,
)
from hermes_lab import lens
from hermes_lab.stream.session import StreamSession
from hermes_lab.worlds import Question

Array = npt.NDArray[np.float64]
MEASURES = ("mass", "value", "logit")
PAIRS = (("mass", "value"), ("mass", "logit"), ("value", "logit"))
SETS = ("newest frames", "anchor slot", "first frame", "evidence frames")
TOP = 0.05  # of the tokens
TOP_FRAMES = 0.1
LEAST = 0.05
MEASURES_VERSION = 2
"""Raised when the numbers of a measure change, so that stored ones are not used again."""
_USES_VIDEO = Need("cost of hiding all video", "capable")
CLAIMS = (
    Claim(
        key="mass-predicts-use",
        sentence="Frames that get more attention from the answer's token matter more to the answer.",
        metric="share of the use (drop of the margin when a frame is hidden everywhere) that falls on the tenth of the "
        "frames with the largest attention mass, summed over layers and heads",
        refuted_if="as much use falls on the newest tenth of the frames, or on a random tenth, within 0.05",
        needs=(Need("random frames", "exceed"), Need("newest frames", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
        paper="HERMES (arXiv 2601.14724), section 3, keeps tokens by attention mass",
    ),
    Claim(
        key="values-predict-use-better",
        sentence="Value-weighted contribution predicts which frames matter better than attention mass does.",
        metric="share of the use on the tenth of the frames with the largest value-weighted contribution",
        refuted_if="attention mass finds as much use, within 0.05",
        needs=(Need("attention mass", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
        paper="Kobayashi et al. 2020 (arXiv 2004.10102)",
    ),
    Claim(
        key="logit-attribution-predicts-use-better",
        sentence="Direct logit attribution predicts which frames matter better than attention mass does.",
        metric="share of the use on the tenth of the frames with the largest direct logit attribution",
        refuted_if="attention mass finds as much use, within 0.05",
        needs=(Need("attention mass", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
    ),
)  # fmt: skip


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    found = measure(context)
    by_stream = _known_mean(found["captured"], 1)
    # Where no frame is needed no measure can find any: all stand at chance.
    mass, value, logit, recent, chance = np.where(np.isnan(by_stream), TOP_FRAMES, by_stream).T
    cost = found["cost"].mean(1)
    panels = (
        (mass, {"random frames": chance, "newest frames": recent}),
        (value, {"attention mass": mass}),
        (logit, {"attention mass": mass}),
    )
    findings = judge(
        [
            (
                claim,
                estimate_of(observed),
                named_null_panel(observed, nulls, {_USES_VIDEO.name: cost}),
            )
            for claim, (observed, nulls) in zip(CLAIMS, panels, strict=True)
        ]
    )
    ranks, sets = _rank_table(found), _set_table(found)
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
        tables=(ranks, sets, _use_table(found), _head_table(found), panel_table("nulls", findings)),
        figures=(
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
            FigureSpec(
                "panel", "null_panel", ("nulls",), "Null panel",
                "Each claim's metric beside every control, on one axis.",
                "Anything about other streams or models.",
            ),
        ),
        negatives=_negatives(findings, found),
        robustness=(
            leave_one_out(mass, "use found by attention mass"),
            "by horizon: "
            + ", ".join(
                f"{h} {_known_mean(found['captured'][:, i, 0]):.2f}" for i, h in enumerate(HORIZONS)
            ),
            "rank correlation over all frames instead: "
            + ", ".join(f"{m} {found['use'][..., i].mean():.2f}" for i, m in enumerate(MEASURES)),
            "frames with a drop above 0.1 logits: "
            f"{found['needed'].mean():.0%} of all, so most frames cannot be ranked by use",
        ),
        analyses=len(findings) + len(ranks.rows) + len(sets.rows),
        reproduce=context.reproduce(f"{CLAIMS[0].key} {findings[0].estimate}, within 0.01 on another CPU"),
        scope=context.scope,
        covers=("contribution", "per_head", "nulls"),
    )  # fmt: skip


# --- measurement -----------------------------------------------------------------------------------------
def measure(context: StudyContext) -> dict[str, Array]:
    """All causal streams: "ranks" [stream, layer, head, pair], "overlap" likewise, "sets" [stream, layer, set,
    measure], "use" and "captured" [stream, horizon, measure + recency (+ chance)], "cost" and "needed"
    [stream, horizon]."""
    slot = deep_slot(context)

    def one(stream: Stream) -> Arrays:
        session = feed(
            context.lab, encode(context.lab, stream, chunk_frames=context.settings.chunk_frames)
        )
        grid = Grid.of(session)
        parts: list[dict[str, Array]] = []
        horizons: list[int] = []
        for question in stream.questions(context.settings.per_horizon):
            target = Target.of(session, question)
            parts.append(_question(session, grid, question, target, slot))
            horizons.append(HORIZONS.index(question.horizon))
        out = {
            name: _known_mean(np.asarray([p[name] for p in parts]))
            for name in ("ranks", "overlap", "sets")
        }
        which = np.asarray(horizons)
        for name in ("use", "cost", "needed", "captured"):
            values = np.stack([p[name] for p in parts])
            mean = _known_mean if name == "captured" else _mean
            out[name] = np.stack([mean(values[which == h]) for h in range(len(HORIZONS))])
        return out

    made = context.per_stream(
        "contribution", context.causal, one, slot, context.settings.per_horizon, MEASURES_VERSION
    )
    return {name: np.stack([m[name] for m in made]).astype(float) for name in made[0]}


def _mean(values: Array) -> Array:
    """Mean over questions, 0 where a correlation is undefined (nothing to be ranked)."""
    return np.nan_to_num(values).mean(0)


def _known_mean(values: Array, axis: int | tuple[int, ...] = 0) -> Array:
    """Mean where there is a value, NaN where there is none."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def captured(measures: Array, drop: Array) -> Array:
    """Share of the positive drops, [frame], that falls on the top tenth of the frames by each measure,
    [measure, frame] -> [measure]; NaN where no frame is needed."""
    gain = np.maximum(drop, 0)
    if gain.sum() < 0.1:
        return np.full(len(measures), np.nan)
    chosen = top_mask(measures, max(1, round(TOP_FRAMES * len(drop))))
    return (chosen * gain).sum(-1) / gain.sum()


def _question(
    session: StreamSession, grid: Grid, asked: Question, target: Target, slot: int
) -> dict[str, Array]:
    """Measures of one question and how they relate."""
    question = asked.text
    tokens = token_measures(session, grid, question, target)  # [measure, layer, head, frame, slot]
    flat = np.abs(tokens).reshape(*tokens.shape[:3], -1)
    by_name = dict(zip(MEASURES, flat, strict=True))
    count = max(1, int(TOP * flat.shape[-1]))
    ranks = np.stack([spearman(by_name[a], by_name[b]) for a, b in PAIRS], -1)
    overlap = np.stack([top_overlap(by_name[a], by_name[b], count) for a, b in PAIRS], -1)
    newest = max(1, grid.frames // 10)
    layer = np.abs(tokens).sum(2)  # [measure, layer, frame, slot]
    total = layer.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        sets = np.stack(
            [
                layer[..., -newest:, :].sum((-2, -1)) / total * grid.frames / newest,
                layer[..., slot].sum(-1) / total * grid.slots,
                layer[..., 0, :].sum(-1) / total * grid.frames,
                _on_evidence(layer, total, grid, asked),
            ],
            -1,
        )
    everything = knock.condition(session, range(session.engine.layers), grid.ids)
    frames = [knock.condition(session, range(session.engine.layers), ids) for ids in grid.ids]
    logits = knock.knocked_logits(
        session, question, [knock.untouched(session), everything, *frames]
    )
    margin = target.margin(logits)
    drop = margin[0] - margin[2:]
    frame = np.stack([tokens[0], tokens[1], tokens[2]]).sum((1, 2, 4))  # [measure, frame]
    ranked = np.concatenate([frame, np.arange(grid.frames)[None]])
    use = spearman(ranked, drop[None].repeat(len(ranked), 0))
    found = captured(ranked, drop)
    chance = max(1, round(TOP_FRAMES * grid.frames)) / grid.frames
    return {
        "ranks": ranks,
        "overlap": overlap,
        "sets": np.moveaxis(sets, 0, -1),
        "use": use,
        "captured": np.append(found, np.where(np.isfinite(found[0]), chance, np.nan)),
        "cost": np.asarray(margin[0] - margin[1]),
        "needed": np.asarray((drop > 0.1).mean()),
    }


def _on_evidence(layer: Array, total: Array, grid: Grid, asked: Question) -> Array:
    """Share of the frames that hold the answer's evidence over their uniform share, [measure, layer]; NaN where
    there are none, or where the model merges frames."""
    frames = np.asarray(asked.evidence_frames, dtype=int)
    if frames.size == 0 or asked.time_frame + 1 != grid.frames:
        return np.full(total.shape, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = layer[..., frames, :].sum((-2, -1)) / total
    return share * grid.frames / frames.size


def token_measures(session: StreamSession, grid: Grid, question: str, target: Target) -> Array:
    """Mass, value-weighted contribution and signed logit attribution, [measure, layer, head, frame, slot].

    All at the question's last token, as `hermes_lab.lens` has them: the attribution is the direct path, past
    later layers, towards the answer and away from the mean of its alternatives.
    """
    weighted = lens.value_weighted(session, question)
    direct = lens.direct_attribution(session, question, target.answer, target.others)
    chosen = grid.ids.ravel()
    measures = (
        [layer[:, 0, chosen] for layer in weighted.attention],
        [layer[:, 0, chosen] for layer in weighted.norms],
        [layer[:, chosen] for layer in direct.tokens],
    )
    stacked = np.asarray(measures, float)
    return stacked.reshape(*stacked.shape[:3], grid.frames, grid.slots)


# --- tables --------------------------------------------------------------------------------------------------
def _rank_table(found: dict[str, Array]) -> Table:
    """Agreement of measures over tokens by layer."""
    rows: list[tuple[Any, ...]] = []
    for i, (a, b) in enumerate(PAIRS):
        values = _known_mean(found["ranks"][..., i], 2)
        table = curve_table("t", "layer", {f"{a} and {b}": values}, "")
        rows += table.rows
    layers = found["ranks"].shape[1]
    rows += [("no agreement", layer, 0.0, 0.0, 0.0) for layer in range(layers)]
    return Table(
        "ranks",
        ("series", "layer", "value", "low", "high"),
        tuple(rows),
        "Rank correlation of measures over video tokens, mean over heads.",
    )


def _head_table(found: dict[str, Array]) -> Table:
    """Agreement of mass and values for every head: where the mean hides disagreement."""
    own = cluster_bootstrap(found["ranks"])
    overlap = found["overlap"].mean(0)
    rows = [
        (
            layer,
            head,
            f"{a} and {b}",
            *own.ends(layer, head, i),
            float(overlap[layer, head, i]),
            TOP,
        )
        for layer, head in np.ndindex(*found["ranks"].shape[1:3])
        for i, (a, b) in enumerate(PAIRS)
    ]
    columns = ("layer", "head", "measures", "value", "low", "high", "top_overlap", "chance_overlap")
    return Table(
        "ranks_by_head",
        columns,
        tuple(rows),
        "Rank correlation and overlap of the top 5 % by head.",
    )


def _set_table(found: dict[str, Array]) -> Table:
    """Share of token sets under every measure, over uniform."""
    own = cluster_bootstrap(found["sets"])
    rows = [
        (layer, name, measure, *own.ends(layer, i, j))
        for layer in range(found["sets"].shape[1])
        for i, name in enumerate(SETS)
        for j, measure in enumerate(MEASURES)
    ]
    return Table(
        "sets",
        ("layer", "set", "measure", "value", "low", "high"),
        tuple(rows),
        "Share of a token set under each measure over its uniform share (1.0).",
    )


def _use_table(found: dict[str, Array]) -> Table:
    """Use found by the top frames of each measure, and rank correlation with use, by horizon."""
    own, rank = cluster_bootstrap(found["captured"]), found["use"].mean(0)
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


def _negatives(findings: Sequence[Finding], found: dict[str, Array]) -> tuple[str, ...]:
    """What did not come out as expected, in numbers."""
    agree = _known_mean(found["ranks"], (0, 1, 2))
    evidence = _known_mean(found["sets"][:, :, SETS.index("evidence frames")])
    best = np.nan_to_num(evidence[:, 0]).argmax()
    said = [
        "Over tokens, "
        + ", ".join(
            f"{a} and {b} rank-correlate by {r:.2f}" for (a, b), r in zip(PAIRS, agree, strict=True)
        )
        + " (mean over heads).",
        f"Frames with the evidence get {_known_mean(evidence[:, 0]):.2f} times their uniform share of mass on average "
        f"over layers, {evidence[best, 0]:.2f} times in layer {best}.",
        "Direct attribution leaves out what tokens do through later layers.",
    ]
    said += [
        f"{f.claim.key}: {f.verdict}. {f.because}" for f in findings if f.verdict != "supported"
    ]
    return tuple(said)
