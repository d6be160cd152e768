"""Does the answer need what the claims say it reads - by layer range, token set and horizon of the question?

Attention shows where a layer looks; hiding tokens shows whether it matters. Token sets (newest frames, anchor
slot, sinks, the most attended tokens, all the rest) are hidden from the question in bands, windows and all
layers, and kept alone, beside matched random sets of the same size and shape. Effects are drops of the
answer's logit margin, in units of what hiding all video from all layers costs. Self-repair (arXiv 2307.15771)
makes them lower bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.claims import Claim, Finding, RequiredControl, judge
from analysis.claims import estimate as estimate_of
from analysis.context import StudyContext
from analysis.estimators.agreement import spearman
from analysis.knockout_effects import NO_VIDEO, UNTOUCHED, Cut, Effects, measure
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.streams import HORIZONS
from analysis.structure import (
    NULL_PANEL,
    leave_one_out,
    named_null_panel,
    panel_table,
    unsupported,
)

LEAST = 0.05
SELF_REPAIR = "Later layers can repair what is hidden, so effects are lower bounds."
_SHARE = "of what hiding all video from all layers costs"
_NOTHING = RequiredControl("nothing hidden", "exceed")
_USES_VIDEO = RequiredControl("cost of hiding all video", "capable")

CLAIMS = (
    Claim(
        key="recent-needed-shallow",
        sentence="Questions about now need the newest frames in the shallow layers (the first tenth).",
        metric=f"drop of the margin on `now` questions when the newest frames are hidden in shallow layers, {_SHARE}",
        refuted_if="hiding as many consecutive frames from elsewhere costs as much, within 5 %",
        needs=(_NOTHING, RequiredControl("random frames", "exceed", 3), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), section 2: shallow layers as sensory memory",
    ),
    Claim(
        key="recent-shallow-rather-than-deep",
        sentence="Hiding the newest frames matters more in the shallow layers than in as many of the last layers.",
        metric=f"the same drop in shallow layers, minus that in the same number of last layers, {_SHARE}",
        refuted_if="the newest frames matter as much in the last layers",
        needs=(RequiredControl("no difference", "exceed"), RequiredControl("random frames", "exceed", 3), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), section 2",
    ),
    Claim(
        key="old-needed-deep",
        sentence="Questions about the past need old frames in the deep layers (the last 30 %).",
        metric=f"drop of the margin on `long` questions when all frames except the newest are hidden in deep layers, {_SHARE}",
        refuted_if="the drop is below 5 %, or questions about now drop as much",
        needs=(_NOTHING, RequiredControl("now questions", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), section 2: deep layers as long-term memory",
    ),
    Claim(
        key="old-deep-rather-than-shallow",
        sentence="Old frames matter more to questions about the past in the deep layers than in as many of the first layers.",
        metric=f"the same drop in deep layers, minus that in the same number of first layers, {_SHARE}",
        refuted_if="old frames matter as much in the first layers",
        needs=(RequiredControl("no difference", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), section 2",
    ),
    Claim(
        key="anchors-enough-deep",
        sentence="For questions about the past, anchor tokens alone serve the deep layers better than as many other tokens.",
        metric="margin on `long` questions when deep layers see only the anchor slot of every frame, "
        f"{_SHARE}",
        refuted_if="one random other slot per frame serves as well, within 5 %",
        needs=(RequiredControl("random slots", "exceed", 3), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), section 2: one anchor token per frame",
    ),
)  # fmt: skip

RECENT_SHALLOW, RECENT_LAST = Cut("hide", "recent", "shallow"), Cut("hide", "recent", "last")
OLD_DEEP, OLD_FIRST = Cut("hide", "older", "deep"), Cut("hide", "older", "first")
ANCHORS_ALONE = Cut("keep", "anchors", "deep")
NOW, LONG = HORIZONS.index("now"), HORIZONS.index("long")


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    effects = measure(context)
    findings = judged(effects)
    return StudyResult(
        study="knockout",
        title="Knockout: what the answer needs",
        question=(__doc__ or "").split("\n")[0],
        structural=False,
        quick=context.quick,
        setup=context.setup(
            prompts=("questions of the worlds; see recency",),
            query_rows="all tokens of the question's turn are blinded",
        ),
        data=context.data(context.causal),
        findings=findings,
        tables=(
            effect_table(effects),
            window_table(effects),
            dose_table(effects),
            base_table(effects),
            panel_table("nulls", findings),
        ),
        figures=FIGURE_SPECS,
        negatives=surprises(findings, effects),
        robustness=robustness(effects),
        analyses=len(findings) + len(effects.cuts) * len(HORIZONS),
        reproduce=context.reproduce(
            f"{CLAIMS[0].key} {findings[0].estimate}, within 0.01 on another CPU"
        ),
        scope=context.scope,
        covers=("causal", "robustness", "nulls"),
    )


def judged(effects: Effects) -> tuple[Finding, ...]:
    """The verdicts on the five claims."""
    recent, last = effects.drop(RECENT_SHALLOW, NOW), effects.drop(RECENT_LAST, NOW)
    frames = effects.random_drops(RECENT_SHALLOW, NOW)
    frames_last = effects.random_drops(RECENT_LAST, NOW)
    old, first = effects.drop(OLD_DEEP, LONG), effects.drop(OLD_FIRST, LONG)
    slots = np.stack([effects.left(cut, LONG) for cut in effects.random(ANCHORS_ALONE)])
    zero, video = np.zeros(len(recent)), effects.cost
    values = (
        (NOW, recent, {"nothing hidden": zero, "random frames": frames}),
        (NOW, recent - last, {"no difference": zero, "random frames": frames - frames_last}),
        (LONG, old, {"nothing hidden": zero, "now questions": effects.drop(OLD_DEEP, NOW)}),
        (LONG, old - first, {"no difference": zero}),
        (LONG, effects.left(ANCHORS_ALONE, LONG), {"random slots": slots}),
    )
    return judge(
        [
            (
                claim,
                estimate_of(observed),
                named_null_panel(observed, nulls, {_USES_VIDEO.name: video[:, horizon]}),
            )
            for claim, (horizon, observed, nulls) in zip(CLAIMS, values, strict=True)
        ]
    )


# --- tables -----------------------------------------------------------------------------------------------
def effect_table(effects: Effects) -> Table:
    """Drop, accuracy and divergence of every named condition, beside the mean of its matched random sets."""
    rows: list[tuple[str | float, ...]] = []
    for cut in effects.cuts:
        if not cut.layers or cut.frames is not None or cut.draw is not None:
            continue
        random = effects.random(cut)
        for h, horizon in enumerate(HORIZONS):
            drop = effects.drop(cut, h)
            matched = excess = (float("nan"),) * 3
            if random:
                alike = effects.random_drops(cut, h).mean(0)
                matched = cluster_bootstrap(alike).ends()
                excess = cluster_bootstrap(drop - alike).ends()
            i = effects.index(cut)
            right, moved = effects.right[:, h, i].mean(), effects.moved[:, h, i].mean()
            own = cluster_bootstrap(drop).ends()
            rows.append(
                (
                    cut.action,
                    cut.layers,
                    cut.tokens,
                    horizon,
                    *own,
                    *matched,
                    *excess,
                    float(right),
                    float(moved),
                )
            )
    columns = (
        "direction", "layers", "set", "horizon", "drop", "low", "high", "random_drop", "random_low",
        "random_high", "excess", "excess_low", "excess_high", "accuracy", "divergence_nats",
    )  # fmt: skip
    return Table(
        "effects",
        columns,
        tuple(rows),
        "Drops of the margin, in units of hiding all video everywhere.",
    )


def window_table(effects: Effects) -> Table:
    """Drop by window of layers."""
    rows: list[tuple[str | int | float, ...]] = []
    for cut in effects.cuts:
        if cut.window is not None:
            series = cut.tokens if cut.draw is None else "random frames"
            for h, horizon in enumerate(HORIZONS):
                ends = cluster_bootstrap(effects.drop(cut, h)).ends()
                rows.append((series, horizon, cut.window, *ends))
    columns = ("series", "horizon", "window", "value", "low", "high")
    return Table("windows", columns, tuple(rows), "Drop of the margin by window of layers.")


def dose_table(effects: Effects) -> Table:
    """Drop and accuracy by the number of frames hidden or kept."""
    rows: list[tuple[str | int | float, ...]] = []
    for cut in effects.cuts:
        if cut.frames is not None:
            series = f"{cut.action} {'newest' if cut.draw is None else 'random frames'}"
            for h, horizon in enumerate(HORIZONS):
                ends = cluster_bootstrap(effects.drop(cut, h)).ends()
                right = float(effects.right[:, h, effects.index(cut)].mean())
                rows.append((series, horizon, cut.frames, *ends, right))
    columns = ("series", "horizon", "frames", "value", "low", "high", "accuracy")
    return Table(
        "doses", columns, tuple(rows), "Drop of the margin and accuracy by dose in frames."
    )


def base_table(effects: Effects) -> Table:
    """What there is to lose: margin and accuracy untouched, and with all video hidden."""
    rows: list[tuple[str | float, ...]] = []
    for h, horizon in enumerate(HORIZONS):
        for name, cut in (("untouched", UNTOUCHED), ("all video hidden", NO_VIDEO)):
            i = effects.index(cut)
            margin = cluster_bootstrap(effects.margin[:, h, i]).ends()
            right = cluster_bootstrap(effects.right[:, h, i]).ends()
            rows.append((name, horizon, *margin, *right))
    columns = (
        "condition", "horizon", "margin", "margin_low", "margin_high", "accuracy", "accuracy_low",
        "accuracy_high",
    )  # fmt: skip
    return Table(
        "base", columns, tuple(rows), "Logit margin of the answer, and accuracy among alternatives."
    )


# --- figures ----------------------------------------------------------------------------------------------
FIGURE_SPECS = (
    FigureSpec(
        "effects", "knockout_matrix", ("effects",), "Hide and keep, by layers and set",
        "Drop of the margin for every token set, layer range and horizon, beside its matched random set.",
        SELF_REPAIR,
    ),
    FigureSpec(
        "windows", "window_curves", ("windows",), "By layer window",
        "Drop when a set is hidden in a window of layers, with matched random frames.", SELF_REPAIR,
    ),
    FigureSpec(
        "doses", "dose_curves", ("doses",), "Dose",
        "Drop and accuracy as more of the newest frames are hidden, or kept alone, everywhere.",
        "Which layers are responsible.",
    ),
    NULL_PANEL,
)  # fmt: skip


# --- words ------------------------------------------------------------------------------------------------
def surprises(findings: Sequence[Finding], effects: Effects) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    base = zip(HORIZONS, effects.right[:, :, 0].mean(0), strict=True)
    units = zip(HORIZONS, effects.unit, strict=True)
    return (
        f"Accuracy untouched: {', '.join(f'{h} {accuracy:.2f}' for h, accuracy in base)}.",
        f"Without video the margin drops by {', '.join(f'{unit:.2g} ({h})' for h, unit in units)}"
        " logits, the unit of all effects.",
        SELF_REPAIR,
        *unsupported(findings),
    )


def robustness(effects: Effects) -> tuple[str, ...]:
    """How the drops move with streams, and whether margin, accuracy and divergence order the conditions alike."""
    drop = (effects.margin[..., :1] - effects.margin).mean((0, 1))
    wrong = (effects.right[..., :1] - effects.right).mean((0, 1))
    moved = effects.moved.mean((0, 1))
    return (
        leave_one_out(
            effects.drop(RECENT_SHALLOW, NOW), "newest frames hidden in shallow layers, now"
        ),
        leave_one_out(effects.drop(OLD_DEEP, LONG), "old frames hidden in deep layers, long"),
        "conditions ordered by margin against accuracy: rank correlation "
        f"{float(spearman(drop, wrong)):.2f}; against divergence: {float(spearman(drop, moved)):.2f}",
    )
