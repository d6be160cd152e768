"""Do shallow layers attend to what is new, more than an untrained network and more than position explains?

Attention from the question's last token to cached video as a function of age, per layer and head, on a full
cache. HERMES (arXiv 2601.14724, section 2) shows it for layer 0 of one model, averaged over everything, with
no null; here the curve is fitted per head and held against nulls. "Explained by position" is asked apart
from "there": a recency that RoPE alone produces is real, but it is no memory of content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.claims import Claim, Finding, Need, Role, judge
from analysis.context import StudyContext, layer_mean
from analysis.estimators.recency import fit_recency, newest_share, recency_index
from analysis.observe import GROUPS
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.streams import HORIZONS
from analysis.structure import (
    curve_table,
    depth_table,
    head_table,
    leave_one_out,
    moved_edges,
    panel,
    panel_first,
    panel_table,
    top_heads,
    versions,
)
from hermes_lab.figures.study_parts import BandSeries

Array = npt.NDArray[np.float64]
PAPER = "HERMES (arXiv 2601.14724), section 2, figure 2"
TRAINED_NULLS: dict[str, Role] = {
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
POSITION_NULLS: dict[str, Role] = {
    "uniform": "exceed",
    "random_weights": "exceed",
    "position_only": "exceed",
    "content_shuffled": "exceed",
    "moving_camera": "persist",
    "permuted_weights": "context",
    "frames_shuffled": "context",
    "patches_shuffled": "context",
}


def _needs(roles: dict[str, Role]) -> tuple[Need, ...]:
    return tuple(
        Need(name, role, 3 if name == "random_weights" else 1)
        for name, role in roles.items()
        if role != "context"
    )


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
            needs=_needs(TRAINED_NULLS),
            reference=1.0,
            smallest_effect=0.25,
            status="confirmed",
            paper=PAPER,
        ),
        Claim(
            key="recency-beyond-position",
            sentence="The recency of shallow layers is more than position alone explains.",
            metric=f"{share}, mean over heads of the shallow layers",
            refuted_if="as much recency remains when video keys swap their content and keep their places",
            needs=_needs(POSITION_NULLS),
            reference=1.0,
            smallest_effect=0.25,
            status="confirmed",
            paper=PAPER,
        ),
        Claim(
            key="recency-falls-with-depth",
            sentence="Recency is stronger in shallow than in deep layers (the last 30 %), beyond what "
            "untrained networks show.",
            metric=f"{share}: mean over shallow minus mean over deep layers",
            refuted_if="the difference is below a quarter of the uniform share, or random networks show it too",
            needs=_needs(TRAINED_NULLS),
            reference=0.0,
            smallest_effect=0.25,
            status="confirmed",
            paper=PAPER,
        ),
    )


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    window = max(1, context.settings.frames // context.layout.frames_per_group // 10)

    def share(name: str) -> Array:
        """[stream, layer, head] of a variant, or of the position-only rows of the trained model."""
        if name == "position_only":
            return newest_share(context.observe("trained")["position_only/profile"], window)
        found = context.observe(name)
        horizons = [newest_share(found[f"{h}/profile"], window) for h in HORIZONS]
        return np.nanmean(horizons, axis=0)

    def shallow(name: str) -> Array:
        return layer_mean(share(name), context.paper_bands[0])

    def contrast(bands: Sequence[range], name: str = "trained") -> Array:
        values = share(name)
        return layer_mean(values, bands[0]) - layer_mean(values, bands[2])

    there, beyond, falls = claims_of(window)
    findings = judge(
        [
            (there, *panel(context, shallow, TRAINED_NULLS, 1.0)),
            (beyond, *panel(context, shallow, POSITION_NULLS, 1.0)),
            (
                falls,
                *panel(context, lambda n: contrast(context.paper_bands, n), TRAINED_NULLS, 0.0),
            ),
        ]
    )
    trained = context.observe("trained")
    observed = share("trained")
    heads = head_table(
        "heads",
        observed,
        {
            "uniform": np.ones_like(observed),
            "position_only": share("position_only"),
            "random_weights": versions(context, "random_weights", share),
            "permuted_weights": versions(context, "permuted_weights", share),
        },
        f"Share of the newest {window} frames over uniform, question's last token, mean over horizons.",
    )
    fits = _fit_table(
        {
            "trained": trained.question("profile"),
            "position_only": trained["position_only/profile"],
            "random_weights-0": context.observe("random_weights-0").question("profile"),
        }
    )
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
            _profiles(context),
            _profiles_by_query(context),
            depth_table(
                "depth",
                {
                    name: share(name)
                    for name in (
                        "trained",
                        "position_only",
                        "content_shuffled",
                        "frames_shuffled",
                        "patches_shuffled",
                        "moving_camera",
                        "random_weights-0",
                        "permuted_weights-0",
                    )
                }
                | {"uniform": np.ones_like(observed)},
                f"Share of the newest {window} frames over uniform by layer, mean over heads.",
            ),
            heads,
            fits,
            _query_table(context, window),
            panel_table("nulls", findings),
        ),
        figures=(
            FigureSpec(
                "profiles",
                "age_profiles",
                ("profiles",),
                "Attention by age",
                "Share of attention each frame gets, over the uniform share (1.0x), by band of layers; grey "
                "lines are the nulls.",
                "Whether these frames influence the answer: see knockout.",
            ),
            FigureSpec(
                "depth",
                "depth_curves",
                ("depth",),
                "Recency by layer",
                f"Share of the newest {window} frames over uniform, with nulls.",
                "Which heads carry it: means over heads can hide a single strong head.",
                {"reference": 1.0, "y": "share vs uniform"},
            ),
            FigureSpec(
                "heads",
                "head_map",
                ("heads",),
                "Recency by head",
                "Every head's share; crossed where it is not beyond its strongest null.",
                "Why a head attends there.",
                {"label": "share vs uniform", "reference": 1.0},
            ),
            FigureSpec(
                "rates",
                "forgetting_rates",
                ("forgetting",),
                "Fitted forgetting rates",
                "Rate and fit quality of each head whose attention decays at all.",
                "Forgetting of information: a head that looks away has not thereby forgotten.",
            ),
            FigureSpec(
                "panel",
                "null_panel",
                ("nulls",),
                "Null panel",
                "Each claim's metric beside every control, on one axis.",
                "Anything about other streams or models.",
            ),
        ),
        negatives=_negatives(findings, heads, fits),
        robustness=(
            leave_one_out(shallow("trained"), "shallow recency"),
            moved_edges(contrast, context.paper_bands, context.layers, "shallow minus deep"),
            top_heads(observed, "recency"),
            f"streams of half the length: {shallow('half_length').mean():.3g}; every second frame only: "
            f"{shallow('half_rate').mean():.3g}",
            f"development streams: {_development(context, window):.3g}",
            "all question tokens instead of the last one: "
            f"{layer_mean(newest_share(trained['rows/profile'], window), context.paper_bands[0]).mean():.3g}",
        ),
        analyses=len(findings) + len(heads.rows) + len(fits.rows) + len(GROUPS) * context.layers,
        reproduce=context.reproduce(
            f"shallow recency {findings[0].estimate}, within 1 % on another CPU"
        ),
        scope=context.scope,
        covers=("per_head", "nulls", "robustness"),
    )


def _development(context: StudyContext, window: int) -> float:
    found = context.observe("trained", "development").question("profile")
    return float(layer_mean(newest_share(found, window), context.paper_bands[0]).mean())


def _prompts(context: StudyContext) -> tuple[str, ...]:
    asked = {q.text for s in context.held_out for q in s.questions(context.settings.per_horizon)}
    return tuple(sorted(asked)[:12])


def _profiles(context: StudyContext) -> Table:
    """Profiles by band for the trained model and its nulls."""
    curves: dict[str, Array] = {}
    names = (
        "trained",
        "position_only",
        "content_shuffled",
        "random_weights-0",
        "permuted_weights-0",
    )
    for band, layers in panel_first(context.paper_bands).items():
        for name in names:
            if name == "position_only":
                values = context.observe("trained")["position_only/profile"]
            else:
                values = context.observe(name).question("profile")
            curves[str(BandSeries(band, name))] = values[:, layers].mean((1, 2))
        flat = np.ones_like(curves[str(BandSeries(band, "trained"))])
        curves[str(BandSeries(band, "uniform"))] = flat
    return curve_table(
        "profiles", "age_frames", curves, "Share over uniform by age, question's last token."
    )


def _profiles_by_query(context: StudyContext) -> Table:
    """Profiles of the shallow band for every kind of query row."""
    found = context.observe("trained")
    layers = list(context.paper_bands[0])
    curves = {g: found[f"{g}/profile"][:, layers].mean((1, 2)) for g in GROUPS}
    table = curve_table("profiles_by_query", "age_frames", curves, "")
    caption = "Share over uniform by age in shallow layers, by kind of query row."
    return Table(table.name, ("query", *table.columns[1:]), table.rows, caption)


def _fit_table(profiles: Mapping[str, Array]) -> Table:
    """Forgetting rate of every head: fit of the mean profile, interval from fits per resample."""
    rows: list[tuple[Any, ...]] = []
    for series, profile in profiles.items():
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


def _query_table(context: StudyContext, window: int) -> Table:
    """Recency of every band for every kind of query row."""
    found = context.observe("trained")
    rows: list[tuple[str | float, ...]] = []
    for group in GROUPS:
        values = newest_share(found[f"{group}/profile"], window)
        for band, layers in panel_first(context.paper_bands).items():
            found_ends = cluster_bootstrap(layer_mean(values, layers)).ends()
            rows.append((group, band, *found_ends))
    return Table(
        "by_query",
        ("query", "band", "value", "low", "high"),
        tuple(rows),
        f"Share of the newest {window} frames over uniform, by kind of query row.",
    )


def _negatives(findings: Sequence[Finding], heads: Table, fits: Table) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    beyond = sum(heads.column("beyond_null"))
    own = [row for row in fits.rows if row[0] == "trained"]
    decaying = sum(1 for row in own if row[3] == row[3])
    said = [
        f"{beyond} of {len(heads.rows)} heads are more recent than every null; means over heads hide this.",
        f"{decaying} of {len(own)} heads show a decay at all; the others are flat or have only a "
        "newest-frame spike.",
    ]
    said += [
        f"{f.claim.key}: {f.verdict}. {f.because}" for f in findings if f.verdict != "supported"
    ]
    return tuple(said)
