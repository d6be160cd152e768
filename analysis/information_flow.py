"""When does the answer form, and by which layers does the video reach it?

Three questions in the manner of "Map the Flow" (arXiv 2510.13251): in which layers do frames read other frames
(frames are made blind to each other while they are fed), in which does the question read the video, and in
which does its last token read the question - each by windows of depth, with effects on the answer's margin.
Beside them the logit lens: from which layer on does the last token's residual stream prefer the answer?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from analysis import interventions as knock
from analysis.answers import Target
from analysis.claims import Claim, Finding, Need, judge
from analysis.claims import estimate as estimate_of
from analysis.context import StudyContext
from analysis.knockout_effects import windows
from analysis.result import FigureSpec, StudyResult, Table
from analysis.statistics import cluster_bootstrap
from analysis.store import Arrays
from analysis.streams import HORIZONS, Grid, Stream, encode
from analysis.structure import leave_one_out, named_null_panel, panel_table
from hermes_lab.lens import logit_lens
from hermes_lab.segment import Segment
from hermes_lab.stream.session import StreamSession
from hermes_lab.tokens import Role

Array = npt.NDArray[np.float64]
LEAST = 0.05
PAPER = "Map the Flow (arXiv 2510.13251)"
ROUTES = ("video to question", "video to last token", "question to last token")
_SHARE = "of what hiding all video from the question costs"
_USES_VIDEO = Need("cost of hiding all video", "capable")
CLAIMS = (
    Claim(
        key="frames-talk-early",
        sentence="Frames exchange what the answer needs in the first half of the layers rather than in the second.",
        metric="drop of the margin when frames are blind to each other in the first half, less that in the second half, "
        f"{_SHARE}",
        refuted_if="the second half matters as much, or leaving every token as many random others does the same",
        needs=(Need("no difference", "exceed"), Need("random tokens", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
        paper=PAPER,
    ),
    Claim(
        key="video-enters-in-the-middle",
        sentence="The question reads the video in the middle third of the layers more than in the other thirds.",
        metric=f"drop when video is hidden from the question in the middle third, less the mean of the other thirds, {_SHARE}",
        refuted_if="the first or the last third matters as much on average",
        needs=(Need("no difference", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
        paper=PAPER,
    ),
    Claim(
        key="answer-forms-after-entry",
        sentence="The answer becomes readable at the last token after the depth at which video enters.",
        metric="depth at which the logit lens' margin first reaches half its final value, less the centre of the effect of "
        "hiding video by layer window, as shares of the depth",
        refuted_if="half of the margin is readable at or before the centre of entry",
        needs=(Need("no difference", "exceed"), _USES_VIDEO),
        reference=0.0,
        smallest_effect=LEAST,
        status="confirmed",
        paper=PAPER,
    ),
)  # fmt: skip


def run(context: StudyContext) -> StudyResult:
    """Run the study; see the module docstring."""
    found = measure(context)
    cost = found["base"] - found["hidden"]  # [stream, horizon]
    unit = np.maximum(cost.mean(0), 0.2)
    cross = ((found["base"][..., None] - found["cross"]) / unit[:, None]).mean(1)
    matched = ((found["base"][..., None] - found["cross_random"]) / unit[:, None]).mean(1)
    thirds = ((found["base"][..., None] - found["thirds"]) / unit[:, None]).mean(1)
    routes = (found["base"][..., None, None] - found["routes"]) / unit[:, None, None]
    early, early_random = cross[:, 0] - cross[:, 1], matched[:, 0] - matched[:, 1]
    middle = thirds[:, 1] - (thirds[:, 0] + thirds[:, 2]) / 2
    forms = _half_depth(found["lens"].mean(1)) - _centre(routes.mean(1)[:, 0], context.layers)
    zero, able = np.zeros(len(cost)), {_USES_VIDEO.name: cost.mean(1)}
    values = (
        (early, {"no difference": zero, "random tokens": early_random}),
        (middle, {"no difference": zero}),
        (forms, {"no difference": zero}),
    )
    findings = judge(
        [
            (claim, estimate_of(observed), named_null_panel(observed, nulls, able))
            for claim, (observed, nulls) in zip(CLAIMS, values, strict=True)
        ]
    )
    tables = (
        _lens_table(found),
        _route_table(routes),
        _cross_table(cross, matched),
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
        figures=(
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
            FigureSpec(
                "panel", "null_panel", ("nulls",), "Null panel",
                "Each claim's metric beside every control, on one axis.",
                "Anything about other streams or models.",
            ),
        ),
        negatives=_negatives(findings, found, forms),
        robustness=(
            leave_one_out(early, "frames blind: first half minus second half"),
            leave_one_out(middle, "video to question: middle third minus the others"),
        ),
        analyses=len(findings) + sum(len(t.rows) for t in tables),
        reproduce=context.reproduce(f"{CLAIMS[1].key} {findings[1].estimate}, within 0.01 on another CPU"),
        scope=context.scope,
        covers=("causal",),
    )  # fmt: skip


# --- measurement -------------------------------------------------------------------------------------------
def measure(context: StudyContext) -> dict[str, Array]:
    """Margins: "base", "hidden" [stream, horizon]; "cross", "cross_random" [stream, horizon, half]; "thirds"
    [stream, horizon, third]; "routes" [stream, horizon, route, window]; and the logit lens, "lens" and
    "lens_right" [stream, horizon, layer]; "chance" [stream, horizon]."""
    layers = context.layers
    halves = windows(layers, 2)

    def one(stream: Stream) -> Arrays:
        segments = encode(context.lab, stream, chunk_frames=context.settings.chunk_frames)
        questions = stream.questions(context.settings.per_horizon)
        session = StreamSession(context.lab, "full")
        for segment in segments:
            session.feed_segment(segment)
        grid = Grid.of(session)
        targets = [Target.of(session, q) for q in questions]
        plan = _conditions(session, grid, layers)
        margins = np.stack(
            [
                target.margin(knock.knocked_logits(session, q.text, plan))
                for q, target in zip(questions, targets, strict=True)
            ]
        )
        count = len(windows(layers))
        out: dict[str, Array] = {
            "base": margins[:, 0],
            "hidden": margins[:, 1],
            "thirds": margins[:, 2:5],
            "routes": margins[:, 5:].reshape(len(questions), len(ROUTES), count),
        }
        for name, random in (("cross", False), ("cross_random", True)):
            blind = [
                _margins(isolated(context, segments, half, random, stream.seed), questions, targets)
                for half in halves
            ]
            out[name] = np.stack(blind, -1)
        lens = [_lens(session, q.text, t) for q, t in zip(questions, targets, strict=True)]
        out["lens"] = np.stack([margin for margin, _ in lens])
        out["lens_right"] = np.stack([right for _, right in lens])
        out["chance"] = np.asarray([1 / (1 + len(t.others)) for t in targets])
        horizon = np.asarray([HORIZONS.index(q.horizon) for q in questions])
        return {
            name: np.stack([values[horizon == h].mean(0) for h in range(len(HORIZONS))])
            for name, values in out.items()
        }

    made = context.per_stream("flow", context.causal, one, context.settings.per_horizon)
    return {name: np.stack([m[name] for m in made]).astype(float) for name in made[0]}


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


def _margins(session: StreamSession, questions: Sequence[Any], targets: Sequence[Target]) -> Array:
    return np.asarray(
        [
            float(t.margin(session.question_logits(q.text)[-1]))
            for q, t in zip(questions, targets, strict=True)
        ]
    )


def isolated(
    context: StudyContext,
    segments: Sequence[Segment],
    layers: Sequence[int],
    random: bool,
    seed: int,
) -> StreamSession:
    """A stream fed with frames blind to each other in some layers: every visual token sees its own frame only.

    With `random`, every token instead sees as many random visual tokens as its frame would have shown it (and
    itself): the matched control. Text stays visible.
    """
    session = StreamSession(context.lab, "full")
    generator = torch.Generator().manual_seed(seed)
    frame: list[int] = [-1] * session.protected_tokens

    def blind(scores: Tensor, hook: Any) -> Tensor:
        key = torch.tensor(frame)
        query = key[-scores.shape[2] :]
        return scores.masked_fill(mask_for(query, key).to(scores.device), float("-inf"))

    memo: dict[int, Tensor] = {}

    def mask_for(query: Tensor, key: Tensor) -> Tensor:
        if len(key) not in memo:  # one draw for all layers of a chunk
            memo.clear()
            memo[len(key)] = _blind_mask(query, key, generator if random else None)
        return memo[len(key)]

    first = 0
    with session.hooks([(f"blocks.{layer}.attn.hook_attn_scores", blind) for layer in layers]):
        for segment in segments:
            visual = segment.role == Role.VISUAL
            frame += np.where(visual, segment.frame + first, -1).tolist()
            first += len(segment.time_s)
            session.feed_segment(segment)
    return session


def _blind_mask(query: Tensor, key: Tensor, generator: torch.Generator | None) -> Tensor:
    """Keys that each query must not see, [query, key]; frames are numbers, text is -1."""
    rows, keys = len(query), len(key)
    earlier = torch.arange(keys)[None] <= torch.arange(keys - rows, keys)[:, None]
    foreign = (query[:, None] != key[None]) & (query[:, None] >= 0) & (key[None] >= 0)
    if generator is None:
        return foreign
    own = earlier & ~foreign & (key[None] >= 0)
    pool = earlier & (query[:, None] >= 0) & (key[None] >= 0)
    self_ = torch.arange(keys)[None] == torch.arange(keys - rows, keys)[:, None]
    draw = torch.rand(rows, keys, generator=generator).masked_fill(~pool, -1).masked_fill(self_, 2)
    rank = draw.argsort(-1, descending=True).argsort(-1)
    return pool & (rank >= own.sum(-1, keepdim=True))


def _lens(session: StreamSession, question: str, target: Target) -> tuple[Array, Array]:
    """Margin and rightness of the logit lens after every layer, [layer]."""
    seen = logit_lens(session, question, [target.answer, *target.others])
    logits = seen.logits[:, 0].astype(float)
    margin = logits[:, 0] - logits[:, 1:].mean(-1)
    return margin, (logits[:, 0] > logits[:, 1:].max(-1)).astype(float)


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


# --- tables --------------------------------------------------------------------------------------------------
def _lens_table(found: dict[str, Array]) -> Table:
    """What the logit lens reads by layer and horizon."""
    margins, rights = cluster_bootstrap(found["lens"]), cluster_bootstrap(found["lens_right"])
    chance = found["chance"].mean(0)
    rows = [
        (horizon, layer, *margins.ends(h, layer), *rights.ends(h, layer), float(chance[h]))
        for h, horizon in enumerate(HORIZONS)
        for layer in range(found["lens"].shape[2])
    ]
    columns = (
        "series", "layer", "value", "low", "high", "accuracy", "accuracy_low", "accuracy_high", "chance",
    )  # fmt: skip
    return Table("lens", columns, tuple(rows), "Logit lens at the last token: margin and accuracy.")


def _route_table(routes: Array) -> Table:
    """Effect of cutting a route by window and horizon."""
    own = cluster_bootstrap(routes)
    rows = [
        (route, horizon, window, *own.ends(h, r, window))
        for r, route in enumerate(ROUTES)
        for h, horizon in enumerate(HORIZONS)
        for window in range(routes.shape[3])
    ]
    return Table(
        "routes",
        ("series", "horizon", "window", "value", "low", "high"),
        tuple(rows),
        "Drop of the margin when a route is cut in a window of layers.",
    )


def _cross_table(cross: Array, matched: Array) -> Table:
    """Effect of blinding frames to each other, beside random tokens."""
    rows: list[tuple[Any, ...]] = []
    for name, values in (("own frame only", cross), ("as many random tokens", matched)):
        own = cluster_bootstrap(values)
        rows += [(name, half, *own.ends(i)) for i, half in enumerate(("first half", "second half"))]
    return Table(
        "cross",
        ("series", "layers", "value", "low", "high"),
        tuple(rows),
        "Drop of the margin when visual tokens see only their own frame, mean over horizons.",
    )


def _negatives(
    findings: Sequence[Finding], found: dict[str, Array], forms: Array
) -> tuple[str, ...]:
    """What did not come out as the literature says, in numbers."""
    right = found["lens_right"].mean((0, 1))
    said = [
        "Logit-lens accuracy by layer: " + ", ".join(f"{a:.2f}" for a in right) + ".",
        f"Half of the final margin is reached {forms.mean():.2f} of the depth after the centre of entry.",
    ]
    said += [
        f"{f.claim.key}: {f.verdict}. {f.because}" for f in findings if f.verdict != "supported"
    ]
    return tuple(said)
