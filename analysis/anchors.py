"""Do deep layers look at one token of every frame, the same slot whatever is shown, and does it carry anything?

HERMES (arXiv 2601.14724, section 2) reports local maxima of attention exactly one frame apart in deep layers.
A rhythm of one frame is what any network shows on a still camera, trained or not, and what rotary positions
show where a frame is near a whole number of turns. So an anchor here is a slot that was chosen on
development streams and gets more than its share on other streams, in the trained model only, above shuffled
patches, and still does when the camera moves. Whether it matters is asked by knocking it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from analysis import interventions as knock
from analysis.answers import Target
from analysis.claims import Claim, Finding, Need, Role, judge
from analysis.claims import estimate as estimate_of
from analysis.context import Features, Split, StudyContext, layer_mean
from analysis.estimators.periodicity import phase_match
from analysis.result import FigureSpec, StudyResult, Table
from analysis.streams import HORIZONS, Grid, Stream, encode, feed
from analysis.structure import (
    curve_table,
    deep_slot,
    depth_table,
    head_table,
    leave_one_out,
    moved_edges,
    named_null_panel,
    panel,
    panel_first,
    panel_table,
    top_heads,
    versions,
)
from hermes_lab.figures.study_parts import BandSeries

Array = npt.NDArray[np.float64]
PAPER = "HERMES (arXiv 2601.14724), section 2, figure 2"
NULLS: dict[str, Role] = {
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
NEEDS = tuple(
    Need(name, role, 3 if name == "random_weights" else 1)
    for name, role in NULLS.items()
    if role != "context"
)
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
        status="confirmed",
        paper=PAPER,
    ),
    Claim(
        key="rhythm-deep",
        sentence="Attention of deep layers repeats at the tokens-per-frame lag more than untrained networks' "
        "does on the same streams.",
        metric="autocorrelation of log attention at a lag of one frame less its median at control lags, mean "
        "over heads of the deep layers",
        refuted_if="the excess over shuffled patches or any random network is below 0.1",
        needs=NEEDS,
        reference=0.0,
        smallest_effect=LEAST_PROMINENCE,
        status="confirmed",
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
        status="confirmed",
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
            Need("nothing hidden", "exceed"),
            Need("random slots", "exceed", 3),
            Need("cost of hiding all video", "capable"),
        ),
        reference=0.0,
        smallest_effect=LEAST_MARGIN,
        status="confirmed",
        paper="HERMES (arXiv 2601.14724), section 2: anchors as long-term memory",
    ),
)


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    bands = context.paper_bands
    chosen: dict[str, npt.NDArray[np.int64]] = {}

    def slots(name: str, split: Split = "held_out") -> Array:
        """Slot profiles of a variant, [stream, layer, head, slot]."""
        if name == "position_only":
            return context.observe("trained", split)["position_only/slots"]
        return context.observe(name, split).question("slots")

    def choice(name: str) -> npt.NDArray[np.int64]:
        """The slot of each head on development streams; each network chooses its own, [layer, head]."""
        source = name if "weights-" in name else "trained"
        if source not in chosen:
            chosen[source] = slots(source, "development").mean(0).argmax(-1)
        return chosen[source]

    def share(name: str, split: Split = "held_out") -> Array:
        index = choice(name)[None, ..., None]
        return np.take_along_axis(
            slots(name, split), np.broadcast_to(index, (*slots(name, split).shape[:3], 1)), -1
        )[..., 0]

    def prominence(name: str) -> Array:
        if name == "position_only":
            return context.observe("trained")["position_only/prominence"]
        return context.observe(name).question("prominence")

    def contrast(bands: Sequence[range], name: str = "trained") -> Array:
        values = share(name)
        return layer_mean(values, bands[2]) - layer_mean(values, bands[0])

    slot = deep_slot(context)  # one for the whole band, to be knocked out
    hidden = _knockouts(context, slot)
    cost = (hidden["base"] - hidden["video"]).mean((1, 2))
    unit = max(float(cost.mean()), 0.2)
    drop = (hidden["base"] - hidden["anchors"]).mean((1, 2)) / unit
    matched = (hidden["base"][..., None] - hidden["random"]).mean((1, 2)).T / unit
    deep, rhythm, rises, informative = CLAIMS
    findings = judge(
        [
            (deep, *panel(context, lambda n: layer_mean(share(n), bands[2]), NULLS, 1.0)),
            (rhythm, *panel(context, lambda n: layer_mean(prominence(n), bands[2]), NULLS, 0.0)),
            (rises, *panel(context, lambda n: contrast(bands, n), NULLS, 0.0)),
            (
                informative,
                estimate_of(drop),
                named_null_panel(
                    drop,
                    {"nothing hidden": np.zeros(len(drop)), "random slots": matched},
                    {"cost of hiding all video": cost},
                ),
            ),
        ]
    )
    observed = share("trained")
    heads = head_table(
        "heads",
        observed,
        {
            "uniform": np.ones_like(observed),
            "patches_shuffled": share("patches_shuffled"),
            "random_weights": versions(context, "random_weights", share),
            "permuted_weights": versions(context, "permuted_weights", share),
        },
        "Share of the slot chosen on development streams over uniform, question's last token.",
    )
    sinks = _sink_table(context, slot)
    series = (
        "trained", "patches_shuffled", "cells_shuffled", "frames_shuffled", "moving_camera", "position_only",
        "random_weights-0", "permuted_weights-0",
    )  # fmt: skip
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
            depth_table(
                "share_by_depth",
                {n: share(n) for n in series} | {"uniform": np.ones_like(observed)},
                "Share of the chosen slot over uniform, mean over heads.",
            ),
            depth_table(
                "rhythm_by_depth",
                {n: prominence(n) for n in series} | {"uniform": np.zeros_like(observed)},
                "Autocorrelation at one frame less control lags, mean over heads.",
            ),
            curve_table(
                "slots",
                "slot",
                {
                    str(BandSeries(band, n)): slots(n)[:, layers].mean((1, 2))
                    for band, layers in panel_first(bands).items()
                    for n in ("trained", "patches_shuffled", "random_weights-0", "moving_camera")
                },
                "Share of every within-frame slot over uniform, row by row of the frame's grid.",
            ),
            heads,
            _phase_table(slots, observed.shape),
            sinks,
            _knockout_table(hidden),
            panel_table("nulls", findings),
        ),
        figures=(
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
                "What the model sees there.", {"cols": context.layout.cols},
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
            FigureSpec(
                "panel", "null_panel", ("nulls",), "Null panel",
                "Each claim's metric beside every control, on one axis.",
                "Anything about other streams or models.",
            ),
        ),
        negatives=_negatives(findings, heads, sinks, context),
        robustness=(
            leave_one_out(layer_mean(observed, bands[2]), "deep anchor share"),
            moved_edges(contrast, bands, context.layers, "deep minus shallow"),
            top_heads(observed, "anchor share"),
            f"streams of half the length: {layer_mean(share('half_length'), bands[2]).mean():.3g}; every second "
            f"frame only: {layer_mean(share('half_rate'), bands[2]).mean():.3g}",
            f"slot chosen and measured on development streams (optimistic): "
            f"{layer_mean(share('trained', 'development'), bands[2]).mean():.3g}",
        ),
        analyses=len(findings) + 2 * len(heads.rows) + 4 * context.layers,
        reproduce=context.reproduce(f"deep anchor share {findings[0].estimate}, within 1 % on another CPU"),
        scope=context.scope,
        covers=("per_head", "nulls", "robustness"),
    )  # fmt: skip


# --- intervention ----------------------------------------------------------------------------------
def _knockouts(context: StudyContext, slot: int) -> dict[str, Array]:
    """Margins untouched, with the anchors or random slots hidden in deep layers, and with all video hidden:
    "base", "anchors" and "video" [stream, horizon, 1], "random" [stream, horizon, 1, draw]."""
    layers, draws = context.paper_bands[2], context.settings.control_draws

    def measure(stream: Stream) -> dict[str, Array]:
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
        single = {name: found[:, i : i + 1] for i, name in enumerate(names)}
        return {**single, "random": found[:, None, 3:]}

    found = context.per_stream(
        "anchors", context.causal, measure, slot, draws, context.settings.per_horizon
    )
    return {name: np.stack([f[name] for f in found]).astype(float) for name in found[0]}


def _knockout_table(hidden: dict[str, Array]) -> Table:
    """Drops by horizon, anchors beside random slots."""
    base = hidden["base"]
    curves = {
        "anchors": (base - hidden["anchors"])[..., 0],
        "random slots": (base[..., None] - hidden["random"]).mean((2, 3)),
    }
    table = curve_table("knockout", "horizon", curves, "Drop of the answer's margin in logits.")
    rows = tuple((series, HORIZONS[int(point)], *rest) for series, point, *rest in table.rows)
    return Table(table.name, table.columns, rows, table.caption)


# --- tables ------------------------------------------------------------------------------------------
def _phase_table(slots: Callable[..., Array], shape: tuple[int, ...]) -> Table:
    """Which slot each head prefers, and how far its slot profile carries over to other streams."""
    profile = slots("trained", "development").mean(0)
    carried = phase_match(slots("trained"), profile).mean(0)
    shuffled = phase_match(slots("patches_shuffled"), profile).mean(0)
    best = profile.argmax(-1)
    rows = [
        (
            layer, head, int(best[layer, head]), float(profile.max(-1)[layer, head]),
            float(carried[layer, head]), float(shuffled[layer, head]),
        )
        for layer in range(shape[1])
        for head in range(shape[2])
    ]  # fmt: skip
    columns = (
        "layer", "head", "slot", "development_share", "phase_match", "phase_match_patches_shuffled",
    )  # fmt: skip
    return Table(
        "phase",
        columns,
        tuple(rows),
        "Slot chosen on development streams; correlation of slot profiles with held-out streams.",
    )


def massive_threshold(hidden_size: int) -> float:
    """RMS-normalised magnitude from which a token counts as massive: 20 as published, less where d forbids it."""
    return min(20.0, 0.6 * hidden_size**0.5)


def _sink_table(context: StudyContext, slot: int) -> Table:
    """Massive-activation tokens, and attention on the first token and on text, by layer."""
    found: Features = context.observe("trained")
    limit = massive_threshold(int(context.lab.adapter.text_config.hidden_size))
    massive = found["tokens/massive"] >= limit
    rows = [
        (
            layer, float(massive[:, layer].mean()), float(massive[:, layer, :, slot].mean()),
            float(found["tokens/first"][:, layer].mean()), float(found["tokens/text"][:, layer].mean()),
            float(found["tokens/massive"][:, layer].max()),
        )
        for layer in range(context.layers)
    ]  # fmt: skip
    columns = (
        "layer", "massive_share", "massive_share_at_anchor_slot", "first_token_mass", "text_mass",
        "largest_activation_rms",
    )  # fmt: skip
    return Table(
        "sinks",
        columns,
        tuple(rows),
        f"Share of visual tokens with an activation of {limit:.3g} RMS or more, and attention off the video.",
    )


def _negatives(
    findings: Sequence[Finding], heads: Table, sinks: Table, context: StudyContext
) -> tuple[str, ...]:
    """What did not come out as the paper says, in numbers."""
    beyond = sum(heads.column("beyond_null"))
    massive, text = max(sinks.column("massive_share")), max(sinks.column("text_mass"))
    first, markers = max(sinks.column("first_token_mass")), context.layout.marker_tokens
    said = [
        f"{beyond} of {len(heads.rows)} heads have an anchor beyond every null.",
        f"Massive-activation visual tokens: at most {massive:.1%} of tokens in any layer; first cached token at "
        f"most {first:.1%} of attention, all text at most {text:.1%}.",
        "The model puts no separator between frames."
        if markers == 0
        else f"{markers} marker tokens stand between frames.",
    ]
    said += [
        f"{f.claim.key}: {f.verdict}. {f.because}" for f in findings if f.verdict != "supported"
    ]
    return tuple(said)
