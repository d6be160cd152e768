"""Attention of one stream on a full cache, reduced to features per layer and head.

Features are taken of every question's own rows and averaged afterwards, so that averaging cannot invent
structure. All are conditional on the video: attention to text is reported beside them, not mixed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from torch import Tensor

from analysis.arrays import Array
from analysis.features import Feature, Number, Rows, TokenNumber, features
from analysis.nulls import position_only
from analysis.streams import HORIZONS, Grid, Stream, Transform, encode, feed
from hermes_lab.engine.hooks import layer_of
from hermes_lab.engine.passes import Wants
from hermes_lab.engine.upstream import block_of, score_scale
from hermes_lab.lab import Lab
from hermes_lab.policies.base import Guidance
from hermes_lab.policies.hermes import Hermes
from hermes_lab.retention import guidance
from hermes_lab.segment import Segment
from hermes_lab.stream.question_pass import question_pass
from hermes_lab.stream.session import StreamSession
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

PERMUTATIONS = 4  # of content, behind every position-only row


def observe(
    lab: Lab,
    stream: Stream,
    *,
    transform: Transform = "none",
    chunk_frames: int = 16,
    per_horizon: int = 3,
    everything: bool = True,
) -> dict[Feature, npt.NDArray[np.float32]]:
    """Features of one stream, each [layer, head, ...].

    Without `everything` only the question's own rows are read, which is all that a null needs.
    Told of tokens: "first" and "text", the mass of the last question token on the first cached token and on all
    text (means over questions), and "massive" [layer, frame, slot], the largest RMS-normalised activation of every
    visual token where a layer begins.
    """
    segments = encode(lab, stream, chunk_frames=chunk_frames, transform=transform)
    out: dict[Feature, Array] = {}
    if everything:
        session, massive, visual = _feed_watched(lab, segments)
        grid = Grid.of(session)
        out |= {Feature("visual", name): v for name, v in features(visual(grid)).items()}
        out[Feature("tokens", "massive")] = massive[:, grid.ids]
    else:
        session = feed(lab, segments)
        grid = Grid.of(session)
    collected: dict[Rows, list[dict[Number, Array]]] = {}
    text: list[dict[TokenNumber, Array]] = []
    for question in stream.questions(per_horizon):
        last, mean, tokens = question_rows(session, grid, question.text)
        first = question.horizon not in collected
        collected.setdefault(question.horizon, []).append(features(last))
        collected.setdefault("rows", []).append(features(mean))
        text.append(tokens)
        if first and everything:
            alone = position_only_grid(session, grid, question.text, seed=stream.seed)
            collected.setdefault("position_only", []).append(features(alone))
    if everything:
        prompted = guidance_rows(session, grid, paper_prompts())
        collected["guidance_local"] = [features(prompted["local"])]
        collected["guidance_global"] = [features(prompted["global"])]
    for group, several in collected.items():
        for name in several[0]:
            out[Feature(group, name)] = np.mean([one[name] for one in several], axis=0)
    for horizon in set(HORIZONS) - set(collected):  # a short or moving stream may lack one
        for name, value in collected["rows"][0].items():
            out[Feature(horizon, name)] = np.full_like(value, np.nan)
    for name in text[0]:
        out[Feature("tokens", name)] = np.mean([one[name] for one in text], axis=0)
    return {feature: value.astype(np.float32) for feature, value in out.items()}


# --- rows ----------------------------------------------------------------------------------------
def question_rows(
    session: StreamSession, grid: Grid, question: str
) -> tuple[Array, Array, dict[TokenNumber, Array]]:
    """Attention of a question on the video: last token, mean over its tokens, each [layer, head, frame, slot];
    and the last token's mass on the first cached token and on all text, [layer, head]."""
    last: dict[int, Array] = {}
    mean: dict[int, Array] = {}
    first: dict[int, Array] = {}
    table_role = session.table.column("role")
    cached_text = np.flatnonzero(table_role != Role.VISUAL)

    def on_rows(layer: int, rows: Tensor) -> None:
        weights = rows.double().cpu().numpy()
        last[layer] = weights[:, -1, grid.ids]
        mean[layer] = weights[..., grid.ids].mean(1)
        new = weights[:, -1, len(table_role) :].sum(-1)
        first[layer] = np.stack(
            [weights[:, -1, 0], weights[:, -1, cached_text].sum(-1) + new], axis=-1
        )

    session.prefill_question(question, Wants(rows=slice(None), on_rows=on_rows))
    order = sorted(last)
    text = np.stack([first[layer] for layer in order])
    return (
        np.stack([last[layer] for layer in order]),
        np.stack([mean[layer] for layer in order]),
        {"first": text[..., 0], "text": text[..., 1]},
    )


def paper_prompts() -> dict[str, Guidance]:
    """HERMES' two prompts (Appendix B), propagated through the layers."""
    policy = Hermes.paper()
    return {
        "local": Guidance("local", policy.local_prompt),
        "global": Guidance("global", policy.global_prompt),
    }


def guidance_rows(
    session: StreamSession, grid: Grid, prompts: Mapping[str, Guidance]
) -> dict[str, Array]:
    """Attention of pseudo-queries, mean over their tokens: name -> [layer, head, frame, slot]."""
    engine = session.engine
    rows: dict[str, dict[int, Array]] = {name: {} for name in prompts}
    segments = guidance.segments_for(
        engine, [replace(g, name=name) for name, g in prompts.items()], None
    )

    def on_rows(name: str, layer: int, weights: Tensor) -> None:
        rows[name][layer] = weights.double().mean(1).cpu().numpy()[:, grid.ids]

    guidance.read(engine, session.stream.cache, segments, on_rows)
    return {name: np.stack([found[i] for i in sorted(found)]) for name, found in rows.items()}


def position_only_grid(session: StreamSession, grid: Grid, question: str, *, seed: int) -> Array:
    """Attention of a question's last token when video keys swap their content, [layer, head, frame, slot]."""
    engine = session.engine
    names = [f"blocks.{layer}.attn.hook_rot_q" for layer in range(engine.layers)]
    seen = question_pass(session, question, names)
    out: list[Array] = []
    for layer, name in enumerate(names):
        state = seen.states[layer]
        assert state.keys is not None
        cached = len(session.table)
        positions = state.positions

        def rotate(keys: Tensor, layer: int = layer, positions: Tensor = positions) -> Tensor:
            return engine.rope.rotate(keys, torch.zeros_like(positions), positions, layer)

        unrotated = engine.rope.rotate(
            state.keys[0].float(), positions, torch.zeros_like(positions), layer
        )
        movable = np.zeros(state.tokens, dtype=bool)
        movable[grid.ids.ravel()] = True
        assert cached <= state.tokens
        query = rearrange(seen.activations[name][0, -1:], "row head dim -> head row dim")
        scaling = score_scale(block_of(engine.adapter.layers[layer]).attention)
        rows = position_only(
            query,
            unrotated,
            rotate,
            movable=movable,
            scaling=scaling,
            permutations=PERMUTATIONS,
            seed=seed + layer,
        )
        out.append(rows[:, 0].double().cpu().numpy()[:, grid.ids])
    return np.stack(out)


def _feed_watched(
    lab: Lab, segments: Sequence[Segment]
) -> tuple[StreamSession, Array, Callable[[Grid], Array]]:
    """Feed a stream; also the massive activations [layer, token] and the newest frame's rows."""
    session = StreamSession(lab, "full")
    layers = session.engine.layers
    massive: list[list[Array]] = [[] for _ in range(layers)]
    patterns: dict[int, Array] = {}

    def on_residual(tensor: Tensor, hook: HookPoint) -> None:
        x = tensor[0].float()
        rms = x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-9)
        largest = (x / rms).abs().amax(-1)
        massive[layer_of(hook)].append(largest.double().cpu().numpy())

    def on_pattern(tensor: Tensor, hook: HookPoint) -> None:
        patterns[layer_of(hook)] = tensor[0].double().mean(1).cpu().numpy()

    prefix = np.full(session.protected_tokens, np.nan)
    residual = [(f"blocks.{i}.hook_resid_pre", on_residual) for i in range(layers)]
    with session.hooks(residual):
        for segment in segments[:-1]:
            session.feed_segment(segment)
        with session.hooks([(f"blocks.{i}.attn.hook_pattern", on_pattern) for i in range(layers)]):
            session.feed_segment(segments[-1])
    magnitude = np.stack([np.concatenate([prefix, *parts]) for parts in massive])

    def visual(grid: Grid) -> Array:
        # The newest frame's own tokens see each other only in part, so their frame is left out.
        earlier = replace(grid, ids=grid.ids[:-1])
        return np.stack([patterns[i][:, earlier.ids] for i in range(layers)])

    return session, magnitude, visual
