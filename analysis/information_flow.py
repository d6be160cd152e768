"""When does the answer form, and by which layers does the video reach it?

Three questions in the manner of "Map the Flow" (arXiv 2510.13251): in which layers do frames read other frames
(frames are made blind to each other while they are fed), in which does the question read the video, and in
which does its last token read the question - each by windows of depth, with effects on the answer's margin.
Beside them the logit lens: from which layer on does the last token's residual stream prefer the answer?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from einops import rearrange

from analysis import interventions as knock
from analysis.answers import LEAST_COST, Target
from analysis.arrays import Array, Arrays
from analysis.claims import Claim, Finding, RequiredControl, judge
from analysis.claims import estimate as estimate_of
from analysis.context import StudyContext
from analysis.isolation import isolated
from analysis.knockout_effects import windows
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.streams import HORIZONS, Grid, Stream, encode, feed
from analysis.structure import (
    NULL_PANEL,
    leave_one_out,
    named_null_panel,
    panel_table,
    unsupported,
)
from hermes_lab.lens import logit_lens
from hermes_lab.stream.session import StreamSession
from hermes_lab.worlds import Question

LEAST = 0.05
PAPER = "Map the Flow (arXiv 2510.13251)"
ROUTES = ("video to question", "video to last token", "question to last token")
_SHARE = "of what hiding all video from the question costs"
_USES_VIDEO = RequiredControl("cost of hiding all video", "capable")
CLAIMS = (
    Claim(
        key="frames-talk-early",
        sentence="Frames exchange what the answer needs in the first half of the layers rather than in the second.",
        metric="drop of the margin when frames are blind to each other in the first half, minus that in the second half, "
        f"{_SHARE}",
        refuted_if="the second half matters as much, or leaving every token as many random others does the same",
        needs=(RequiredControl("no difference", "exceed"), RequiredControl("random tokens", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper=PAPER,
    ),
    Claim(
        key="video-enters-in-the-middle",
        sentence="The question reads the video in the middle third of the layers more than in the other thirds.",
        metric=f"drop when video is hidden from the question in the middle third, minus the mean of the other thirds, {_SHARE}",
        refuted_if="the first or the last third matters as much on average",
        needs=(RequiredControl("no difference", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper=PAPER,
    ),
    Claim(
        key="answer-forms-after-entry",
        sentence="The answer becomes readable at the last token after the depth at which video enters.",
        metric="depth at which the logit lens' margin first reaches half its final value, minus the centre of the effect of "
        "hiding video by layer window, as shares of the depth",
        refuted_if="half of the margin is readable at or before the centre of entry",
        needs=(RequiredControl("no difference", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmatory",
        paper=PAPER,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Flow:
    """Margins of the answer with routes cut, and what the logit lens reads.

    Attributes:
        base, hidden: nothing cut, and all video hidden from the question, [stream, horizon].
        cross, cross_random: frames blind to each other, and tokens left as many random others, [stream, horizon, half].
        thirds: video hidden from the question, [stream, horizon, third].
        routes: every route cut, [stream, horizon, route, window].
        lens, lens_right: margin and rightness of the logit lens, [stream, horizon, layer].
        chance: accuracy by chance, [stream, horizon].
    """

    base: Array
    hidden: Array
    cross: Array
    cross_random: Array
    thirds: Array
    routes: Array
    lens: Array
    lens_right: Array
    chance: Array

    @property
    def cost(self) -> Array:
        """Cost of hiding all video, [stream, horizon]."""
        return self.base - self.hidden

    @property
    def unit(self) -> Array:
        """Mean of that cost, in which drops are given, [horizon]."""
        return np.maximum(self.cost.mean(0), LEAST_COST)

    def drop(self, margins: Array) -> Array:
        """Drop of margins [stream, horizon, cut], mean over horizons, [stream, cut]."""
        return ((self.base[..., None] - margins) / self.unit[:, None]).mean(1)

    @property
    def route_drops(self) -> Array:
        """Drop for every route and window, [stream, horizon, route, window]."""
        return (self.base[..., None, None] - self.routes) / self.unit[:, None, None]

    @property
    def early(self) -> Array:
        """Drop when frames are blind in the first half minus that in the second, [stream]."""
        drop = self.drop(self.cross)
        return drop[:, 0] - drop[:, 1]

    @property
    def early_random(self) -> Array:
        """The same for as many random tokens, [stream]."""
        drop = self.drop(self.cross_random)
        return drop[:, 0] - drop[:, 1]

    @property
    def middle(self) -> Array:
        """Drop when video is hidden in the middle third minus the mean of the others, [stream]."""
        drop = self.drop(self.thirds)
        return drop[:, 1] - (drop[:, 0] + drop[:, 2]) / 2

    def forms(self, layers: int) -> Array:
        """Depth at which the answer is half formed minus the centre of entry, in shares of the depth, [stream]."""
        entry = _centre(self.route_drops.mean(1)[:, 0], layers)
        return _half_depth(self.lens.mean(1)) - entry


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    found = measure(context)
    findings = judged(found, context.layers)
    tables = (
        lens_table(found),
        route_table(found),
        cross_table(found),
        panel_table("nulls", findings),
    )
    return StudyResult(
        study="information_flow",
        title="Information flow: how the answer forms",
        question=(__doc__ or "").split("\n")[0],
        structural=False,
        quick=context.quick,
        setup=context.setup(
            prompts=("questions of the worlds; see recency",),
            query_rows="all tokens of the question, its last token, or the frames' own tokens, as named",
        ),
        data=context.data(context.causal),
        findings=findings,
        tables=tables,
        figures=FIGURE_SPECS,
        negatives=surprises(findings, found, context.layers),
        robustness=(
            leave_one_out(found.early, "frames blind: first half minus second half"),
            leave_one_out(found.middle, "video to question: middle third minus the others"),
        ),
        analyses=len(findings) + sum(len(t.rows) for t in tables),
        reproduce=context.reproduce(
            f"{CLAIMS[1].key} {findings[1].estimate}, within 0.01 on another CPU"
        ),
        scope=context.scope,
        covers=("causal",),
    )


def judged(found: Flow, layers: int) -> tuple[Finding, ...]:
    """The verdicts on the three claims."""
    zero, able = np.zeros(len(found.cost)), {_USES_VIDEO.name: found.cost.mean(1)}
    values = (
        (found.early, {"no difference": zero, "random tokens": found.early_random}),
        (found.middle, {"no difference": zero}),
        (found.forms(layers), {"no difference": zero}),
    )
    return judge(
        [
            (claim, estimate_of(observed), named_null_panel(observed, nulls, able))
            for claim, (observed, nulls) in zip(CLAIMS, values, strict=True)
        ]
    )


def _half_depth(lens: Array) -> Array:
    """Share of the depth at which each stream's lens margin first reaches half its final value, [stream]."""
    half = lens >= lens[:, -1:] / 2
    return (half.argmax(1) + 1) / lens.shape[1]


def _centre(effect: Array, layers: int) -> Array:
    """Centre of the positive effects of windows, as a share of the depth, [stream, window] -> [stream]."""
    middles = np.asarray([(np.mean(w) + 0.5) / layers for w in windows(layers)])
    weight = np.maximum(effect, 0)
    total = weight.sum(1)
    return np.where(total > 0, (weight * middles).sum(1) / np.where(total > 0, total, 1), 0.5)


# --- measurement -------------------------------------------------------------------------------------------
def measure(context: StudyContext) -> Flow:
    """All cuts on every causal stream, resumable stream by stream."""

    def one(stream: Stream) -> Arrays:
        segments = encode(context.lab, stream, chunk_frames=context.settings.chunk_frames)
        questions = stream.questions(context.settings.per_horizon)
        session = feed(context.lab, segments)
        targets = [Target.of(session, q) for q in questions]
        out = _cuts(session, questions, targets)
        for name, random in (("cross", False), ("cross_random", True)):
            blind = [
                _margins(
                    isolated(context.lab, segments, half, random, stream.seed), questions, targets
                )
                for half in windows(context.layers, 2)
            ]
            out[name] = np.stack(blind, -1)
        read = [_lens(session, q.text, t) for q, t in zip(questions, targets, strict=True)]
        out["lens"] = np.stack([margin for margin, _ in read])
        out["lens_right"] = np.stack([right for _, right in read])
        out["chance"] = np.asarray([1 / (1 + len(t.others)) for t in targets])
        horizon = np.asarray([HORIZONS.index(q.horizon) for q in questions])
        return {
            name: np.stack([values[horizon == h].mean(0) for h in range(len(HORIZONS))])
            for name, values in out.items()
        }

    made = context.per_stream("flow", context.causal, one, context.settings.per_horizon)
    return Flow(**{f.name: np.stack([m[f.name] for m in made]).astype(float) for f in fields(Flow)})


def _cuts(
    session: StreamSession, questions: Sequence[Question], targets: Sequence[Target]
) -> dict[str, Array]:
    """Margins of every question under every knockout, [question, ...]; see `Flow`."""
    plan = _conditions(session, Grid.of(session), session.engine.layers)
    margins = np.stack(
        [
            target.margin(knock.knocked_logits(session, q.text, plan))
            for q, target in zip(questions, targets, strict=True)
        ]
    )
    routes = rearrange(margins[:, 5:], "q (route window) -> q route window", route=len(ROUTES))
    return {
        "base": margins[:, 0],
        "hidden": margins[:, 1],
        "thirds": margins[:, 2:5],
        "routes": routes,
    }


def _conditions(session: StreamSession, grid: Grid, layers: int) -> list[knock.Condition]:
    """Nothing, all video, video by thirds; then every route by window."""
    video = np.zeros(len(session.table), dtype=bool)
    video[grid.ids.ravel()] = True
    nothing = np.zeros_like(video)
    plan = [knock.untouched(session), knock.Condition(frozenset(range(layers)), video)]
    plan += [knock.Condition(frozenset(third), video) for third in windows(layers, 3)]
    for last_only, hide_question in ((False, False), (True, False), (True, True)):
        hidden = nothing if hide_question else video
        plan += [
            knock.Condition(frozenset(window), hidden, last_only, hide_question)
            for window in windows(layers)
        ]
    return plan


def _margins(
    session: StreamSession, questions: Sequence[Question], targets: Sequence[Target]
) -> Array:
    return np.asarray(
        [
            float(t.margin(session.question_logits(q.text)[-1]))
            for q, t in zip(questions, targets, strict=True)
        ]
    )


def _lens(session: StreamSession, question: str, target: Target) -> tuple[Array, Array]:
    """Margin and rightness of the logit lens after every layer, [layer]."""
    seen = logit_lens(session, question, [target.answer, *target.others])
    logits = seen.logits[:, 0].astype(float)
    margin = logits[:, 0] - logits[:, 1:].mean(-1)
    return margin, (logits[:, 0] > logits[:, 1:].max(-1)).astype(float)


# --- tables --------------------------------------------------------------------------------------------------
def lens_table(found: Flow) -> Table:
    """What the logit lens reads by layer and horizon."""
    margins, rights = cluster_bootstrap(found.lens), cluster_bootstrap(found.lens_right)
    chance = found.chance.mean(0)
    rows = [
        (horizon, layer, *margins.ends(h, layer), *rights.ends(h, layer), float(chance[h]))
        for h, horizon in enumerate(HORIZONS)
        for layer in range(found.lens.shape[2])
    ]
    columns = (
        "series", "layer", "value", "low", "high", "accuracy", "accuracy_low", "accuracy_high", "chance",
    )  # fmt: skip
    return Table("lens", columns, tuple(rows), "Logit lens at the last token: margin and accuracy.")


def route_table(found: Flow) -> Table:
    """Effect of cutting a route by window and horizon."""
    drops = found.route_drops
    own = cluster_bootstrap(drops)
    rows = [
        (route, horizon, window, *own.ends(h, r, window))
        for r, route in enumerate(ROUTES)
        for h, horizon in enumerate(HORIZONS)
        for window in range(drops.shape[3])
    ]
    return Table(
        "routes",
        ("series", "horizon", "window", "value", "low", "high"),
        tuple(rows),
        "Drop of the margin when a route is cut in a window of layers.",
    )


def cross_table(found: Flow) -> Table:
    """Effect of blinding frames to each other, beside random tokens."""
    rows: list[tuple[str | float, ...]] = []
    for name, margins in (
        ("own frame only", found.cross),
        ("as many random tokens", found.cross_random),
    ):
        own = cluster_bootstrap(found.drop(margins))
        rows += [(name, half, *own.ends(i)) for i, half in enumerate(("first half", "second half"))]
    return Table(
        "cross",
        ("series", "layers", "value", "low", "high"),
        tuple(rows),
        "Drop of the margin when visual tokens see only their own frame, mean over horizons.",
    )


# --- figures -------------------------------------------------------------------------------------------------
FIGURE_SPECS = (
    FigureSpec(
        "lens", "lens_curves", ("lens",), "The answer in the residual stream",
        "Margin and accuracy that final norm and unembedding read after each layer, by horizon; chance is the "
        "null.",
        "What is present in a form that the unembedding does not read.",
    ),
    FigureSpec(
        "routes", "route_curves", ("routes",), "Where the routes matter",
        "Drop of the margin when a route is cut in a window of layers; cutting nothing is 0.",
        "Routes that repair each other: effects are lower bounds.",
    ),
    FigureSpec(
        "cross", "effect_bars", ("cross",), "Frames blind to each other",
        "Drop when frames see only themselves in a half of the layers, beside as many random tokens.",
        "Which frames exchange what.", {"reference": 0.0},
    ),
    NULL_PANEL,
)  # fmt: skip


# --- words ---------------------------------------------------------------------------------------------------
def surprises(findings: Sequence[Finding], found: Flow, layers: int) -> tuple[str, ...]:
    """What did not come out as the literature says, in numbers."""
    right = ", ".join(f"{accuracy:.2f}" for accuracy in found.lens_right.mean((0, 1)))
    return (
        f"Logit-lens accuracy by layer: {right}.",
        f"Half of the final margin is reached {found.forms(layers).mean():.2f} of the depth after the centre of entry.",
        *unsupported(findings),
    )
