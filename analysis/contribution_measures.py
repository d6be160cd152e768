"""Four measures of every video token and frame of a stream, and how far they agree with each other and with use."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from einops import rearrange

from analysis import interventions as knock
from analysis.answers import Target
from analysis.arrays import Array, Arrays
from analysis.context import StudyContext
from analysis.estimators.agreement import spearman, top_mask, top_overlap
from analysis.streams import HORIZONS, Grid, Stream, encode, feed
from analysis.structure import deep_slot
from hermes_lab import lens
from hermes_lab.stream.session import StreamSession
from hermes_lab.worlds import Question

MEASURES = ("mass", "value", "logit")
PAIRS = (("mass", "value"), ("mass", "logit"), ("value", "logit"))
SETS = ("newest frames", "anchor slot", "first frame", "evidence frames")
TOP = 0.05  # of the tokens
TOP_FRAMES = 0.1
MEASURES_VERSION = 2
"""Raised when the numbers of a measure change, so that stored ones are not used again."""


@dataclass(frozen=True)
class Measured:
    """What the measures say of all causal streams; NaN where a measure has nothing to rank.

    Attributes:
        ranks, overlap: agreement of measures over tokens, [stream, layer, head, pair].
        sets: share of token sets over uniform, [stream, layer, set, measure].
        use: rank correlation with use over frames, [stream, horizon, measure + recency].
        captured: use on the top tenth of the frames, [stream, horizon, measure + recency + chance].
        cost: cost of hiding all video, [stream, horizon].
        needed: share of the frames that the answer needs, [stream, horizon].
    """

    ranks: Array
    overlap: Array
    sets: Array
    use: Array
    captured: Array
    cost: Array
    needed: Array

    @property
    def by_stream(self) -> Array:
        """`captured` by stream, mean over horizons, [measure + recency + chance, stream].

        Where no frame is needed no measure can find any: all stand at chance.
        """
        mean = known_mean(self.captured, 1)
        return np.where(np.isnan(mean), TOP_FRAMES, mean).T


def measure(context: StudyContext) -> Measured:
    """All measures on every causal stream, resumable stream by stream."""
    slot = deep_slot(context)

    def one(stream: Stream) -> Arrays:
        session = feed(
            context.lab, encode(context.lab, stream, chunk_frames=context.settings.chunk_frames)
        )
        grid = Grid.of(session)
        questions = stream.questions(context.settings.per_horizon)
        parts = [_question(session, grid, question, slot) for question in questions]
        out: Arrays = {
            name: known_mean(np.asarray([p[name] for p in parts]))
            for name in ("ranks", "overlap", "sets")
        }
        horizon = np.asarray([HORIZONS.index(question.horizon) for question in questions])
        for name in ("use", "cost", "needed", "captured"):
            values = np.stack([p[name] for p in parts])
            mean = known_mean if name == "captured" else _mean
            out[name] = np.stack([mean(values[horizon == h]) for h in range(len(HORIZONS))])
        return out

    made = context.per_stream(
        "contribution", context.causal, one, slot, context.settings.per_horizon, MEASURES_VERSION
    )
    return Measured(
        **{f.name: np.stack([m[f.name] for m in made]).astype(float) for f in fields(Measured)}
    )


def _mean(values: Array) -> Array:
    """Mean over questions, 0 where a correlation is undefined (nothing to be ranked)."""
    return np.nan_to_num(values).mean(0)


def known_mean(values: Array, axis: int | tuple[int, ...] = 0) -> Array:
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


def _question(session: StreamSession, grid: Grid, asked: Question, slot: int) -> dict[str, Array]:
    """Measures of one question and how they relate; see `Measured`."""
    target = Target.of(session, asked)
    tokens = token_measures(
        session, grid, asked.text, target
    )  # [measure, layer, head, frame, slot]
    margin = _margins_without_frames(session, grid, asked.text, target)
    drop = margin[0] - margin[2:]
    by_frame = tokens.sum((1, 2, 4))  # [measure, frame]
    ranked = np.concatenate([by_frame, np.arange(grid.frames, dtype=float)[None]])
    found = captured(ranked, drop)
    chance = max(1, round(TOP_FRAMES * grid.frames)) / grid.frames
    return {
        **_agreement(tokens),
        "sets": _set_shares(tokens, grid, asked, slot),
        "use": spearman(ranked, np.broadcast_to(drop, ranked.shape)),
        "captured": np.append(found, np.where(np.isfinite(found[0]), chance, np.nan)),
        "cost": np.asarray(margin[0] - margin[1]),
        "needed": np.asarray((drop > 0.1).mean()),
    }


def _margins_without_frames(
    session: StreamSession, grid: Grid, question: str, target: Target
) -> Array:
    """Margins with nothing hidden, with all video hidden, and without each frame, [condition]."""
    everywhere = range(session.engine.layers)
    plan = [
        knock.untouched(session),
        knock.condition(session, everywhere, grid.ids),
        *(knock.condition(session, everywhere, ids) for ids in grid.ids),
    ]
    return target.margin(knock.knocked_logits(session, question, plan))


def _agreement(tokens: Array) -> dict[str, Array]:
    """Rank correlation and overlap of the top tokens for every pair of measures, [layer, head, pair]."""
    flat = rearrange(
        np.abs(tokens), "measure layer head frame slot -> measure layer head (frame slot)"
    )
    count = max(1, int(TOP * flat.shape[-1]))
    pairs = [(flat[MEASURES.index(a)], flat[MEASURES.index(b)]) for a, b in PAIRS]
    return {
        "ranks": np.stack([spearman(a, b) for a, b in pairs], -1),
        "overlap": np.stack([top_overlap(a, b, count) for a, b in pairs], -1),
    }


def _set_shares(tokens: Array, grid: Grid, asked: Question, slot: int) -> Array:
    """Share of every token set over its uniform share, [layer, set, measure]; see `SETS`."""
    newest = max(1, grid.frames // 10)
    layer = np.abs(tokens).sum(2)  # [measure, layer, frame, slot]
    total = layer.sum((-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        sets = (
            layer[..., -newest:, :].sum((-2, -1)) / total * grid.frames / newest,
            layer[..., slot].sum(-1) / total * grid.slots,
            layer[..., 0, :].sum(-1) / total * grid.frames,
            _on_evidence(layer, total, grid, asked),
        )
    return rearrange(np.stack(sets), "set measure layer -> layer set measure")


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
    return rearrange(stacked, "... (frame slot) -> ... frame slot", frame=grid.frames)
