"""Do shallow layers attend to what is new, more than an untrained network and more than position explains?

Attention from the question's last token to cached video as a function of age, per layer and head, on a full
cache. HERMES (arXiv 2601.14724, section 2) shows it for layer 0 of one model, averaged over everything, with
no null; here the curve is fitted per head and held against nulls. "Explained by position" is asked apart
from "there": a recency that RoPE alone produces is real, but it is no memory of content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.arrays import Array
from analysis.claims import Claim, ControlRole, Finding, judge
from analysis.context import StudyContext, layer_mean
from analysis.estimators.recency import fit_recency, newest_share, recency_index
from analysis.features import GROUPS, Features
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.streams import HORIZONS
from analysis.structure import (
    NULL_PANEL,
    curve_table,
    depth_table,
    head_table,
    leave_one_out,
    moved_edges,
    named_bands,
    needs_of,
    panel,
    panel_table,
    top_heads,
    unsupported,
    versions,
)
from hermes_lab.figures.study_parts import BandSeries

PAPER = "HERMES (arXiv 2601.14724), section 2, figure 2"
TRAINED_NULLS: dict[str, ControlRole] = {
    "uniform": "exceed",
    "random_weights": "exceed",
    "permuted_weights": "exceed",
    "moving_camera": "persist",
    "position_only": "context",
    "content_shuffled": "context",
    "frames_shuffled": "context",
    "patches_shuffled": "context",
    "half_length": "context",
    "half_rate": "context",
}
POSITION_NULLS: dict[str, ControlRole] = {
    "uniform": "exceed",
    "random_weights": "exceed",
    "position_only": "exceed",
    "content_shuffled": "exceed",
    "moving_camera": "persist",
    "permuted_weights": "context",
    "frames_shuffled": "context",
    "patches_shuffled": "context",
}


PROFILED = (
    "trained",
    "position_only",
    "content_shuffled",
    "random_weights-0",
    "permuted_weights-0",
)
"""Variants whose curves over age are drawn."""
DRAWN = (
    "trained", "position_only", "content_shuffled", "frames_shuffled", "patches_shuffled", "moving_camera",
    "random_weights-0", "permuted_weights-0",
)  # fmt: skip
"""Variants whose curves over depth are drawn."""


def claims_of(window_frames: int) -> tuple[Claim, Claim, Claim]:
    """The three claims, fixed before held-out streams were looked at."""
    share = f"share of the newest {window_frames} frames over their uniform share, question's last token"
    return (
        Claim(
            key="recency-shallow",
            sentence="Shallow layers (the first tenth) allocate more attention to the newest frames than "
            "uniform attention and than untrained networks of the same architecture do.",
            metric=f"{share}, mean over heads of the shallow layers",
            refuted_if="the excess over uniform or any random network is below a quarter of the uniform share, "
            "or the effect is gone with a moving camera",
            needs=needs_of(TRAINED_NULLS),
            reference=1.0,
            smallest_effect=0.25,
            status="confirmatory",
            paper=PAPER,
        ),
        Claim(
            key="recency-beyond-position",
            sentence="The recency of shallow layers is more than position alone explains.",
            metric=f"{share}, mean over heads of the shallow layers",
            refuted_if="as much recency remains when video keys swap their content and keep their places",
            needs=needs_of(POSITION_NULLS),
            reference=1.0,
            smallest_effect=0.25,
            status="confirmatory",
            paper=PAPER,
        ),
        Claim(
            key="recency-falls-with-depth",
            sentence="Recency is stronger in shallow than in deep layers (the last 30 %), beyond what "
            "untrained networks show.",
            metric=f"{share}: mean over shallow minus mean over deep layers",
            refuted_if="the difference is below a quarter of the uniform share, or random networks show it too",
            needs=needs_of(TRAINED_NULLS),
            reference=0.0,
            smallest_effect=0.25,
            status="confirmatory",
            paper=PAPER,
        ),
    )


@dataclass(frozen=True)
class Measured:
    """How recent attention is under every variant of model and stream.

    Attributes:
        window: newest frames that count as recent.
    """

    context: StudyContext
    window: int

    @property
    def trained(self) -> Features:
        """Everything that is known of the trained model."""
        return self.context.observe("trained")

    def profile(self, name: str) -> Array:
        """Share over uniform by age, [stream, layer, head, age]."""
        if name == "position_only":
            return self.trained.of("position_only", "profile")
        return self.context.observe(name).question("profile")

    def share(self, name: str) -> Array:
        """Share of the newest frames over uniform, [stream, layer, head]."""
        if name == "position_only":
            return newest_share(self.profile(name), self.window)
        found = self.context.observe(name)
        horizons = [newest_share(found.of(h, "profile"), self.window) for h in HORIZONS]
        return np.nanmean(horizons, axis=0)

    def shallow(self, name: str) -> Array:
        """The same in shallow layers, mean over heads, [stream]."""
        return layer_mean(self.share(name), self.context.paper_bands[0])

    def contrast(self, bands: Sequence[range], name: str = "trained") -> Array:
        """Shallow minus deep layers for some bands, [stream]."""
        values = self.share(name)
        return layer_mean(values, bands[0]) - layer_mean(values, bands[2])


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    measured = Measured(context, context.newest_frames)
    findings = judged(measured)
    heads, fits = head_shares(measured), forgetting(measured)
    return StudyResult(
        study="recency",
        title="Recency: attention by age",
        question=(__doc__ or "").split("\n")[0],
        structural=True,
        quick=context.quick,
        setup=context.setup(
            prompts=_prompts(context),
            query_rows="question's last token (claims); all question tokens, HERMES' two prompts, tokens of "
            "the newest frame (tables)",
        ),
        data=context.data(moving=True),
        findings=findings,
        tables=(
            profiles(measured),
            profiles_by_query(measured),
            by_layer(measured),
            heads,
            fits,
            by_query(measured),
            panel_table("nulls", findings),
        ),
        figures=figures(measured.window),
        negatives=surprises(findings, heads, fits),
        robustness=robustness(measured),
        analyses=len(findings) + len(heads.rows) + len(fits.rows) + len(GROUPS) * context.layers,
        reproduce=context.reproduce(
            f"shallow recency {findings[0].estimate}, within 1 % on another CPU"
        ),
        scope=context.scope,
        covers=("per_head", "nulls", "robustness"),
    )


def judged(measured: Measured) -> tuple[Finding, ...]:
    """The verdicts on the three claims."""
    context = measured.context
    there, beyond, falls = claims_of(measured.window)

    def contrast(name: str) -> Array:
        return measured.contrast(context.paper_bands, name)

    return judge(
        [
            (there, *panel(context, measured.shallow, TRAINED_NULLS, 1.0)),
            (beyond, *panel(context, measured.shallow, POSITION_NULLS, 1.0)),
            (falls, *panel(context, contrast, TRAINED_NULLS, 0.0)),
        ]
    )


def _prompts(context: StudyContext) -> tuple[str, ...]:
    asked = {q.text for s in context.held_out for q in s.questions(context.settings.per_horizon)}
    return tuple(sorted(asked)[:12])


# --- tables ----------------------------------------------------------------------------------------
def profiles(measured: Measured) -> Table:
    """Profiles by band for the trained model and its nulls."""
    curves: dict[str, Array] = {}
    for band, layers in named_bands(measured.context.paper_bands).items():
        for name in PROFILED:
            values = measured.profile(name)[:, layers].mean((1, 2))
            curves[str(BandSeries(band, name))] = values
        flat = np.ones_like(curves[str(BandSeries(band, "trained"))])
        curves[str(BandSeries(band, "uniform"))] = flat
    return curve_table(
        "profiles", "age_frames", curves, "Share over uniform by age, question's last token."
    )


def profiles_by_query(measured: Measured) -> Table:
    """Profiles of the shallow band for every kind of query row."""
    layers = list(measured.context.paper_bands[0])
    curves: dict[str, Array] = {
        group: measured.trained.of(group, "profile")[:, layers].mean((1, 2)) for group in GROUPS
    }
    table = curve_table("profiles_by_query", "age_frames", curves, "")
    caption = "Share over uniform by age in shallow layers, by kind of query row."
    return Table(table.name, ("query", *table.columns[1:]), table.rows, caption)


def by_layer(measured: Measured) -> Table:
    """Recency of every layer under every variant."""
    curves = {name: measured.share(name) for name in DRAWN}
    return depth_table(
        "depth",
        curves | {"uniform": np.ones_like(curves["trained"])},
        f"Share of the newest {measured.window} frames over uniform by layer, mean over heads.",
    )


def head_shares(measured: Measured) -> Table:
    """Recency of every head beside its strongest null."""
    observed, context = measured.share("trained"), measured.context
    return head_table(
        "heads",
        observed,
        {
            "uniform": np.ones_like(observed),
            "position_only": measured.share("position_only"),
            "random_weights": versions(context, "random_weights", measured.share),
            "permuted_weights": versions(context, "permuted_weights", measured.share),
        },
        f"Share of the newest {measured.window} frames over uniform, question's last token, mean over horizons.",
    )


def forgetting(measured: Measured) -> Table:
    """Forgetting rate of every head: fit of the mean profile, interval from fits per resample."""
    rows: list[tuple[Any, ...]] = []
    for series in ("trained", "position_only", "random_weights-0"):
        profile = measured.profile(series)
        fit = fit_recency(profile.mean(0))
        found = cluster_bootstrap(profile, transform=lambda m: fit_recency(m).rate, draws=100)
        index = recency_index(profile).mean(0)
        for at in np.ndindex(*profile.shape[1:3]):
            parts = (fit.half_life_frames, fit.amplitude, fit.floor, fit.spike, fit.r2, fit.r2_tail)
            numbers = (float(part[at]) for part in (*parts, fit.evidence, index))
            rows.append((series, *at, *found.ends(*at), *numbers))
    columns = (
        "series", "layer", "head", "rate_per_frame", "low", "high", "half_life_frames", "amplitude", "floor",
        "spike", "r2", "r2_tail", "evidence_bic", "recency_index",
    )  # fmt: skip
    return Table(
        "forgetting",
        columns,
        tuple(rows),
        "Floor + decay + newest-frame spike, in units of the uniform share; no rate where decay is not "
        "strongly evidenced.",
    )


def by_query(measured: Measured) -> Table:
    """Recency of every band for every kind of query row."""
    rows: list[tuple[str | float, ...]] = []
    for group in GROUPS:
        values = newest_share(measured.trained.of(group, "profile"), measured.window)
        for band, layers in named_bands(measured.context.paper_bands).items():
            rows.append((group, band, *cluster_bootstrap(layer_mean(values, layers)).ends()))
    return Table(
        "by_query",
        ("query", "band", "value", "low", "high"),
        tuple(rows),
        f"Share of the newest {measured.window} frames over uniform, by kind of query row.",
    )


# --- figures ---------------------------------------------------------------------------------------
def figures(window: int) -> tuple[FigureSpec, ...]:
    """What is drawn of the tables."""
    return (
        FigureSpec(
            "profiles", "age_profiles", ("profiles",), "Attention by age",
            "Share of attention each frame gets, over the uniform share (1.0x), by band of layers; grey "
            "lines are the nulls.",
            "Whether these frames influence the answer: see knockout.",
        ),
        FigureSpec(
            "depth", "depth_curves", ("depth",), "Recency by layer",
            f"Share of the newest {window} frames over uniform, with nulls.",
            "Which heads carry it: means over heads can hide a single strong head.",
            {"reference": 1.0, "y": "share vs uniform"},
        ),
        FigureSpec(
            "heads", "head_map", ("heads",), "Recency by head",
            "Every head's share; crossed where it is not beyond its strongest null.",
            "Why a head attends there.", {"label": "share vs uniform", "reference": 1.0},
        ),
        FigureSpec(
            "rates", "forgetting_rates", ("forgetting",), "Fitted forgetting rates",
            "Rate and fit quality of each head whose attention decays at all.",
            "Forgetting of information: a head that looks away may still hold what it saw.",
        ),
        NULL_PANEL,
    )  # fmt: skip


# --- words -----------------------------------------------------------------------------------------
def surprises(findings: Sequence[Finding], heads: Table, fits: Table) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    beyond = sum(heads.column("beyond_null"))
    rate = fits.columns.index("rate_per_frame")
    own = [row for row in fits.rows if row[0] == "trained"]
    decaying = sum(1 for row in own if row[rate] == row[rate])
    return (
        f"{beyond} of {len(heads.rows)} heads are more recent than every null; means over heads hide this.",
        f"{decaying} of {len(own)} heads show a decay at all; the others are flat or have only a "
        "newest-frame spike.",
        *unsupported(findings),
    )


def robustness(measured: Measured) -> tuple[str, ...]:
    """How the estimates move with streams, edges of bands, lengths and query rows."""
    context, window = measured.context, measured.window
    shallow = context.paper_bands[0]
    tried = newest_share(context.observe("trained", "development").question("profile"), window)
    rows = newest_share(measured.trained.of("rows", "profile"), window)
    return (
        leave_one_out(measured.shallow("trained"), "shallow recency"),
        moved_edges(measured.contrast, context.paper_bands, context.layers, "shallow minus deep"),
        top_heads(measured.share("trained"), "recency"),
        f"streams of half the length: {measured.shallow('half_length').mean():.3g}; every second frame only: "
        f"{measured.shallow('half_rate').mean():.3g}",
        f"development streams: {layer_mean(tried, shallow).mean():.3g}",
        f"all question tokens instead of the last one: {layer_mean(rows, shallow).mean():.3g}",
    )
