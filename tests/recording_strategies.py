"""Hypothesis strategies for whatever a recording must be able to hold."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from hermes_lab.snapshot import AttentionSummary, LayerDecision, MergeRecord, Snapshot, Timings
from hermes_lab.tokens import TokenTable

FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def odd_floats(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 with zeros of both signs, infinities and NaN among them."""
    values = rng.standard_normal(shape).astype(np.float32)
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-42], np.float32)
    spots = rng.random(shape) < 0.3
    values[spots] = rng.choice(odd, int(spots.sum()))
    return values


@st.composite
def attention_summaries(draw: st.DrawFn, group: str) -> AttentionSummary:
    """Any reduced attention, its optional rows present or not."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layers, heads, frames = (draw(st.integers(0, 3)) for _ in range(3))
    mass = odd_floats(rng, (layers, heads, frames))
    mass[..., rng.random(frames) < 0.5] = 0.0
    rows = {n: odd_floats(rng, (2, 3, 5)) for n in draw(st.sets(st.integers(0, 30), max_size=2))}
    return AttentionSummary(
        group=group,
        frame_mass=mass,
        role_mass=odd_floats(rng, (layers, heads, 5)),
        entropy=odd_floats(rng, (layers, heads)),
        visible=rng.integers(0, 2**40, layers),
        sink_share=odd_floats(rng, (layers, heads)),
        age_s=odd_floats(rng, (layers, heads)),
        rows=rows,
        row_ids={n: rng.integers(0, 2**31 - 1, (1, 5)) for n in rows},
    )


@st.composite
def recorded_streams(draw: st.DrawFn) -> tuple[list[tuple[Snapshot, int]], TokenTable]:
    """Snapshots that obey the types and little else: any order of ids, tokens that come back, changing heads."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layers = draw(st.integers(0, 3))
    with_positions = draw(st.booleans())
    table = TokenTable()
    steps: list[tuple[Snapshot, int]] = []
    number = draw(st.integers(0, 5))
    for _ in range(draw(st.integers(0, 6))):
        new = table.append(
            draw(st.integers(0, 6)), role=rng.integers(0, 5), frame=number, time_s=0.5, step=number
        )
        if draw(st.booleans()):
            new = rng.permutation(new)
        held: list[np.ndarray] = []
        positions: list[np.ndarray] = []
        for _layer in range(layers):
            heads = draw(st.sampled_from([1, 3]))
            tokens = draw(st.integers(0, len(table)))
            rows = [rng.permutation(len(table))[:tokens] for _ in range(heads)]
            if draw(st.booleans()):
                rows = [np.sort(row) for row in rows]
            held.append(np.array(rows, np.int64).reshape(heads, tokens))
            top = draw(st.sampled_from([10, 2**15, 2**31, 2**40]))
            axes = draw(st.sampled_from([1, 3]))
            positions.append(rng.integers(-top, top, (heads, axes, tokens)))
        decisions: list[LayerDecision] = []
        for layer in range(layers):
            if not draw(st.booleans()):
                continue
            heads = draw(st.sampled_from([1, 3]))
            tokens = draw(st.integers(0, len(table)))
            shape = (heads, tokens)
            ids = [rng.permutation(len(table))[:tokens] for _ in range(heads)]
            names = draw(st.lists(st.text(max_size=5), max_size=3, unique=True))
            merged = [
                MergeRecord(
                    int(rng.integers(0, len(table))),
                    rng.integers(0, len(table), rng.integers(0, 4)),
                )
                for _ in range(draw(st.integers(0, 2)) if len(table) else 0)
            ]
            decisions.append(
                LayerDecision(
                    layer=layer,
                    candidates=np.array(ids, np.int64).reshape(shape),
                    kept=rng.random(shape) < 0.5,
                    scores=odd_floats(rng, shape),
                    terms={name: odd_floats(rng, shape) for name in names},
                    merged=tuple(merged),
                    budget_tokens=draw(st.integers(0, 9)),
                )
            )
        groups = draw(st.lists(st.sampled_from(["chunk", "guidance:a", "question"]), max_size=2))
        steps.append(
            (
                Snapshot(
                    step=number,
                    frames=tuple(draw(st.lists(st.integers(0, 99), max_size=3, unique=True))),
                    frames_seen=draw(st.integers(0, 99)),
                    tokens_seen=draw(st.integers(0, 10**9)),
                    time_s=draw(FLOATS),
                    new_ids=new,
                    held=tuple(held),
                    positions=tuple(positions) if with_positions else (),
                    decisions=tuple(decisions),
                    attention=tuple(draw(attention_summaries(group)) for group in groups),
                    budget_tokens=draw(st.none() | st.tuples(*[st.integers(1, 99)] * layers)),
                    cache_bytes=draw(st.integers(0, 2**50)),
                    archive_bytes=draw(st.integers(0, 2**50)),
                    reindexed=tuple(draw(st.lists(st.integers(0, 5), max_size=2))),
                    timings=Timings(*(draw(FLOATS) for _ in range(5))),
                    notes=tuple(draw(st.lists(st.text(max_size=8), max_size=2))),
                ),
                len(table),
            )
        )
        number += draw(st.integers(1, 3))
    return steps, table
