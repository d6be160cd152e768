"""What must hold for any stream, any policy and any budget (hypothesis)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermes_lab import StreamSession, policies
from hermes_lab.lab import Lab
from hermes_lab.policies.base import Policy
from hermes_lab.segment import Segment
from hermes_lab.snapshot import Snapshot
from tests.reference.streams import QUESTION, noise

POLICIES = (
    "fifo", "uniform", "random", "sink_recent", "hermes", "hermes:released", "knorm", "snapkv", "h2o",
)  # fmt: skip
FAMILIES = ("llava_onevision", "qwen2_5_vl")
EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CHUNKS = st.lists(st.sampled_from([2, 4]), min_size=1, max_size=5)
NAMES = st.sampled_from(POLICIES)
RULES = st.sampled_from(["keep", "lazy", "eager", "contiguous"])


@pytest.fixture(params=FAMILIES)
def lab(request: pytest.FixtureRequest, labs: Callable[[str], tuple[Lab, Path]]) -> Lab:
    return labs(request.param)[0]


@cache
def _encoded(name: str, frames: int, number: int) -> Segment:
    lab = _LABS[name]
    return lab.adapter.encode(noise(frames, number), [float(4 * number + i) for i in range(frames)])


_LABS: dict[str, Lab] = {}


def encoded(lab: Lab, frames: int, number: int) -> Segment:
    """Chunk `number` of a stream, through the vision tower once for all examples."""
    _LABS[lab.name] = lab
    return _encoded(lab.name, frames, number)


def named(name: str, budget: int) -> Policy:
    """A policy or one of its presets, at a budget."""
    return replace(policies.get(name), budget_tokens=budget)


def run(
    lab: Lab, policy: Any, rule: str, chunks: list[int], seed: int = 0
) -> tuple[StreamSession, list[Snapshot]]:
    session = StreamSession(lab, policy, positions=rule, seed=seed)
    return session, [
        session.feed_segment(encoded(lab, frames, i)) for i, frames in enumerate(chunks)
    ]


@EXAMPLES
@given(name=NAMES, chunks=CHUNKS, rule=RULES, over=st.integers(0, 60))
def test_budgets_hold_protected_spans_survive_and_order_is_kept(
    lab: Lab, name: str, chunks: list[int], rule: str, over: int
) -> None:
    prefix = len(lab.adapter.prefix())
    session = StreamSession(lab, named(name, prefix + over), positions=rule)
    previous: list[set[int]] = [set() for _ in range(lab.layers)]
    for i, frames in enumerate(chunks):
        snapshot = session.feed_segment(encoded(lab, frames, i))
        arrived = set(snapshot.new_ids.tolist())
        made = {m.id for d in snapshot.decisions for m in d.merged}
        for layer, held in enumerate(snapshot.held):
            assert held.shape[1] <= prefix + over
            ids = session.layer_ids(layer)
            assert torch.equal(ids[:, :prefix], torch.arange(prefix).expand(len(ids), -1))
            state = session.stream.cache.states[layer]
            assert state.keys is not None
            assert state.keys.shape[2] == state.values.shape[2] == ids.shape[1]  # type: ignore[union-attr]
            assert torch.equal(
                state.positions[:, :, :prefix],
                session.stream.prefix[layer].positions.expand(len(ids), -1, -1),
            )
            now: set[int] = set()
            for head, row in enumerate(held):
                assert len(set(row.tolist())) == len(row)
                assert (np.diff(row) > 0).all()  # ids rise with time
                time = state.positions[head, 0, prefix:]
                assert (time[1:] >= time[:-1]).all()
                now |= set(row.tolist())
            assert now <= previous[layer] | arrived | made  # nothing evicted comes back
            previous[layer] = now
            assert state.cursor.next > int(state.positions.max())


@EXAMPLES
@given(name=NAMES, chunks=CHUNKS, rule=RULES)
def test_a_budget_as_large_as_the_stream_is_identical_to_full(
    lab: Lab, name: str, chunks: list[int], rule: str
) -> None:
    full, seen = run(lab, "full", rule, chunks)
    total = seen[-1].tokens_seen
    budget = max(total, full.protected_tokens)
    bounded, snapshots = run(lab, named(name, budget), rule, chunks)
    assert not any(s.decisions for s in snapshots)
    for a, b in zip(full.stream.cache.states, bounded.stream.cache.states, strict=True):
        assert a.keys is not None and b.keys is not None
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.positions, b.positions)
        assert a.cursor == b.cursor
    assert torch.equal(full.question_logits(QUESTION), bounded.question_logits(QUESTION))


@EXAMPLES
@given(name=NAMES, chunks=CHUNKS, rule=RULES, seed=st.integers(0, 3))
def test_decisions_are_deterministic(
    lab: Lab, name: str, chunks: list[int], rule: str, seed: int
) -> None:
    budget = len(lab.adapter.prefix()) + 5
    one, first = run(lab, named(name, budget), rule, chunks, seed)
    torch.rand(7)  # global random state must not matter
    two, second = run(lab, named(name, budget), rule, chunks, seed)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a.held, b.held, strict=True):
            assert np.array_equal(x, y)
        for d, e in zip(a.decisions, b.decisions, strict=True):
            assert np.array_equal(d.scores, e.scores)
            assert np.array_equal(d.kept, e.kept)
            assert d.terms.keys() == e.terms.keys()
    assert torch.equal(one.question_logits(QUESTION), two.question_logits(QUESTION))
