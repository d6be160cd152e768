"""Do deep layers look at one token of every frame, the same slot whatever is shown, and does it carry anything?

HERMES (arXiv 2601.14724, section 2) reports local maxima of attention exactly one frame apart in deep layers.
A rhythm of one frame is what any network shows on a still camera, trained or not, and what rotary positions
show where a frame is near a whole number of turns. So an anchor here is a slot that was chosen on
development streams and gets more than its share on other streams, in the trained model only, above shuffled
patches, and still does when the camera moves. Whether it matters is asked by knocking it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from analysis.anchor_knockout import Hidden, drop_table, measure
from analysis.arrays import Array, Ints
from analysis.claims import Claim, ControlRole, Finding, RequiredControl, judge
from analysis.claims import estimate as estimate_of
from analysis.context import Split, StudyContext, layer_mean
from analysis.estimators.periodicity import phase_match
from analysis.result import FigureSpec, StudyResult, Table
from analysis.sinks import sink_table
from analysis.structure import (
    NULL_PANEL,
    at_slot,
    curve_table,
    deep_slot,
    depth_table,
    head_table,
    leave_one_out,
    moved_edges,
    named_bands,
    named_null_panel,
    needs_of,
    panel,
    panel_table,
    top_heads,
    unsupported,
    versions,
)
from hermes_lab.figures.study_parts import BandSeries

PAPER = "HERMES (arXiv 2601.14724), section 2, figure 2"
NULLS: dict[str, ControlRole] = {
    "uniform": "exceed",
    "patches_shuffled": "exceed",
    "random_weights": "exceed",
    "permuted_weights": "exceed",
    "moving_camera": "persist",
    "frames_shuffled": "persist",
    "cells_shuffled": "context",
    "content_shuffled": "context",
    "position_only": "context",
    "half_length": "context",
    "half_rate": "context",
}
NEEDS = needs_of(NULLS)
DRAWN = (
    "trained", "patches_shuffled", "cells_shuffled", "frames_shuffled", "moving_camera", "position_only",
    "random_weights-0", "permuted_weights-0",
)  # fmt: skip
"""Variants whose curves over depth are drawn."""
LEAST_SHARE, LEAST_PROMINENCE, LEAST_MARGIN = 0.25, 0.1, 0.05
CLAIMS = (
    Claim(
        key="anchors-deep",
        sentence="In deep layers (the last 30 %) one fixed slot of every frame gets more attention than the "
        "other slots, on unseen content, beyond shuffled patches and untrained networks.",
        metric="share of a slot chosen per head on development streams over its uniform share, forgetting "
        "removed, mean over heads of the deep layers",
        refuted_if="the excess over shuffled patches or any random network is below a quarter of the uniform "
        "share, or the effect is gone with a moving camera",
        needs=NEEDS,
        reference=1.0,
        smallest_effect=LEAST_SHARE,
        status="confirmatory",
        paper=PAPER,
    ),
    Claim(
        key="rhythm-deep",
        sentence="Attention of deep layers repeats at the tokens-per-frame lag more than untrained networks' "
        "does on the same streams.",
        metric="autocorrelation of log attention at a lag of one frame minus its median at control lags, mean "
        "over heads of the deep layers",
        refuted_if="the excess over shuffled patches or any random network is below 0.1",
        needs=NEEDS,
        reference=0.0,
        smallest_effect=LEAST_PROMINENCE,
        status="confirmatory",
        paper=PAPER,
    ),
    Claim(
        key="anchors-rise-with-depth",
        sentence="Anchors are stronger in deep than in shallow layers, beyond what untrained networks show.",
        metric="share of the chosen slot over uniform: mean over deep minus mean over shallow layers",
        refuted_if="the difference is below a quarter of the uniform share, or random networks show it too",
        needs=NEEDS,
        reference=0.0,
        smallest_effect=LEAST_SHARE,
        status="confirmatory",
        paper=PAPER,
    ),
    Claim(
        key="anchors-informative",
        sentence="Anchor tokens carry information to the answer in deep layers: hiding them there costs more "
        "than hiding as many other tokens of the same frames.",
        metric="drop of the answer's logit margin when the anchor slot of every frame is hidden in deep layers, of "
        "what hiding all video from all layers costs",
        refuted_if="hiding one random other slot per frame costs as much, within 5 %",
        needs=(
            RequiredControl("nothing hidden", "exceed"),
            RequiredControl("random slots", "exceed", 3),
            RequiredControl("cost of hiding all video", "capable"),
        ),
        reference=0.0,
        smallest_effect=LEAST_MARGIN,
        status="confirmatory",
        paper="HERMES (arXiv 2601.14724), section 2: anchors as long-term memory",
    ),
)


@dataclass
class Measured:
    """Attention on slots under every variant of model and stream, and what hiding the anchors costs.

    Attributes:
        slot: the one slot that is hidden, for the whole deep band.
        hidden: margins of the answer without it.
    """

    context: StudyContext
    slot: int
    hidden: Hidden
    _chosen: dict[str, Ints] = field(default_factory=dict[str, Ints])

    def slots(self, name: str, split: Split = "held_out") -> Array:
        """Slot profiles of a variant, [stream, layer, head, slot]."""
        if name == "position_only":
            return self.context.observe("trained", split).of("position_only", "slots")
        return self.context.observe(name, split).question("slots")

    def chosen(self, name: str) -> Ints:
        """The slot of each head on development streams, [layer, head]."""
        chooser = self.context.chooser(name)
        if chooser not in self._chosen:
            self._chosen[chooser] = self.slots(chooser, "development").mean(0).argmax(-1)
        return self._chosen[chooser]

    def share(self, name: str, split: Split = "held_out") -> Array:
        """Share of each head's slot over uniform, [stream, layer, head]."""
        return at_slot(self.slots(name, split), self.chosen(name))

    def deep(self, name: str, split: Split = "held_out") -> Array:
        """The same in deep layers, mean over heads, [stream]."""
        return layer_mean(self.share(name, split), self.context.paper_bands[2])

    def prominence(self, name: str) -> Array:
        """Rhythm at one frame, [stream, layer, head]."""
        if name == "position_only":
            return self.context.observe("trained").of("position_only", "prominence")
        return self.context.observe(name).question("prominence")

    def contrast(self, bands: Sequence[range], name: str = "trained") -> Array:
        """Deep minus shallow layers for some bands, [stream]."""
        values = self.share(name)
        return layer_mean(values, bands[2]) - layer_mean(values, bands[0])


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    slot = deep_slot(context)
    measured = Measured(context, slot, measure(context, slot))
    findings = judged(measured)
    heads, sinks = head_shares(measured), sink_table(context, slot)
    return StudyResult(
        study="anchors",
        title="Anchors: one token of every frame",
        question=(__doc__ or "").split("\n")[0],
        structural=True,
        quick=context.quick,
        setup=context.setup(
            prompts=("questions of the worlds; see recency",), query_rows="question's last token"
        ),
        data=context.data(moving=True),
        findings=findings,
        tables=(
            by_layer(measured),
            rhythm_by_layer(measured),
            slot_table(measured),
            heads,
            phase_table(measured),
            sinks,
            drop_table(measured.hidden),
            panel_table("nulls", findings),
        ),
        figures=figures(context.layout.cols),
        negatives=surprises(findings, heads, sinks, context.layout.marker_tokens),
        robustness=robustness(measured),
        analyses=len(findings) + 2 * len(heads.rows) + 4 * context.layers,
        reproduce=context.reproduce(
            f"deep anchor share {findings[0].estimate}, within 1 % on another CPU"
        ),
        scope=context.scope,
        covers=("per_head", "nulls", "robustness"),
    )


def judged(measured: Measured) -> tuple[Finding, ...]:
    """The verdicts on the four claims."""
    context, hidden = measured.context, measured.hidden
    deep, rhythm, rises, informative = CLAIMS
    bands = context.paper_bands
    nulls = {"nothing hidden": np.zeros(len(hidden.drop)), "random slots": hidden.random_drops}
    able = {"cost of hiding all video": hidden.cost}
    return judge(
        [
            (deep, *panel(context, measured.deep, NULLS, 1.0)),
            (
                rhythm,
                *panel(context, lambda n: layer_mean(measured.prominence(n), bands[2]), NULLS, 0.0),
            ),
            (rises, *panel(context, lambda n: measured.contrast(bands, n), NULLS, 0.0)),
            (
                informative,
                estimate_of(hidden.drop),
                named_null_panel(hidden.drop, nulls, able),
            ),
        ]
    )


# --- tables ------------------------------------------------------------------------------------------
def by_layer(measured: Measured) -> Table:
    """Share of the chosen slot in every layer under every variant."""
    curves = {name: measured.share(name) for name in DRAWN}
    return depth_table(
        "share_by_depth",
        curves | {"uniform": np.ones_like(curves["trained"])},
        "Share of the chosen slot over uniform, mean over heads.",
    )


def rhythm_by_layer(measured: Measured) -> Table:
    """Rhythm of every layer under every variant."""
    curves = {name: measured.prominence(name) for name in DRAWN}
    return depth_table(
        "rhythm_by_depth",
        curves | {"uniform": np.zeros_like(curves["trained"])},
        "Autocorrelation at one frame minus control lags, mean over heads.",
    )


def slot_table(measured: Measured) -> Table:
    """Share of every slot by band."""
    curves = {
        str(BandSeries(band, name)): measured.slots(name)[:, layers].mean((1, 2))
        for band, layers in named_bands(measured.context.paper_bands).items()
        for name in ("trained", "patches_shuffled", "random_weights-0", "moving_camera")
    }
    return curve_table(
        "slots",
        "slot",
        curves,
        "Share of every within-frame slot over uniform, row by row of the frame's grid.",
    )


def head_shares(measured: Measured) -> Table:
    """Share of every head's slot beside its strongest null."""
    observed, context = measured.share("trained"), measured.context
    return head_table(
        "heads",
        observed,
        {
            "uniform": np.ones_like(observed),
            "patches_shuffled": measured.share("patches_shuffled"),
            "random_weights": versions(context, "random_weights", measured.share),
            "permuted_weights": versions(context, "permuted_weights", measured.share),
        },
        "Share of the slot chosen on development streams over uniform, question's last token.",
    )


def phase_table(measured: Measured) -> Table:
    """Which slot each head prefers, and how far its slot profile carries over to other streams."""
    profile = measured.slots("trained", "development").mean(0)
    carried = phase_match(measured.slots("trained"), profile).mean(0)
    shuffled = phase_match(measured.slots("patches_shuffled"), profile).mean(0)
    best, largest = profile.argmax(-1), profile.max(-1)
    rows = [
        (
            *at,
            int(best[at]),
            float(largest[at]),
            float(carried[at]),
            float(shuffled[at]),
        )
        for at in np.ndindex(*best.shape)
    ]
    columns = (
        "layer", "head", "slot", "development_share", "phase_match", "phase_match_patches_shuffled",
    )  # fmt: skip
    return Table(
        "phase",
        columns,
        tuple(rows),
        "Slot chosen on development streams; correlation of slot profiles with held-out streams.",
    )


# --- figures ---------------------------------------------------------------------------------------
def figures(cols: int) -> tuple[FigureSpec, ...]:
    """What is drawn of the tables; `cols` is the number of columns of a frame's grid."""
    return (
        FigureSpec(
            "share", "depth_curves", ("share_by_depth",), "Anchor share by layer",
            "Share of each head's development slot on held-out streams, with every null.",
            "Whether the answer uses it.", {"reference": 1.0, "y": "share vs uniform"},
        ),
        FigureSpec(
            "rhythm", "depth_curves", ("rhythm_by_depth",), "Rhythm at one frame by layer",
            "Peak of the autocorrelation over control lags; random networks and shuffled patches beside it.",
            "A rhythm alone is no anchor: still scenes and rotary positions make one.",
            {"reference": 0.0, "y": "prominence"},
        ),
        FigureSpec(
            "slots", "slot_maps", ("slots",), "Where in the frame",
            "Share of every slot of the frame's grid, by band, trained and under nulls.",
            "What the model sees there.", {"cols": cols},
        ),
        FigureSpec(
            "heads", "head_map", ("heads",), "Anchor share by head",
            "Every head's share; crossed where it is not beyond its strongest null.",
            "Why a head attends there.", {"label": "share vs uniform", "reference": 1.0},
        ),
        FigureSpec(
            "knockout", "effect_bars", ("knockout",), "Hiding the anchors",
            "Drop of the answer's margin when anchors, or one random slot per frame, are hidden.",
            "Effects that other layers repair are understated.", {"reference": 0.0},
        ),
        NULL_PANEL,
    )  # fmt: skip


# --- words -----------------------------------------------------------------------------------------
def surprises(
    findings: Sequence[Finding], heads: Table, sinks: Table, marker_tokens: int
) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    beyond = sum(heads.column("beyond_null"))
    massive, text = max(sinks.column("massive_share")), max(sinks.column("text_mass"))
    return (
        f"{beyond} of {len(heads.rows)} heads have an anchor beyond every null.",
        f"Massive-activation visual tokens: at most {massive:.1%} of tokens in any layer; first cached token at "
        f"most {max(sinks.column('first_token_mass')):.1%} of attention, all text at most {text:.1%}.",
        "The model puts no separator between frames."
        if marker_tokens == 0
        else f"{marker_tokens} marker tokens stand between frames.",
        *unsupported(findings),
    )


def robustness(measured: Measured) -> tuple[str, ...]:
    """How the estimates move with streams, edges of bands, and lengths."""
    context = measured.context
    return (
        leave_one_out(measured.deep("trained"), "deep anchor share"),
        moved_edges(measured.contrast, context.paper_bands, context.layers, "deep minus shallow"),
        top_heads(measured.share("trained"), "anchor share"),
        f"streams of half the length: {measured.deep('half_length').mean():.3g}; every second "
        f"frame only: {measured.deep('half_rate').mean():.3g}",
        f"slot chosen and measured on development streams (optimistic): "
        f"{measured.deep('trained', 'development').mean():.3g}",
    )
