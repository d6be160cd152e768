"""What every policy that can be found by name must hold to, on made-up views and streams (no model)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_lab import policies
from hermes_lab.policies.base import UNBOUNDED, LayerView, Policy, Scores
from tests.fabricate import FakeStream, decide, layer_view

TOKENS = 24


def decides(name: str) -> bool:
    """Whether a policy decides from a cache alone: no required fields, and evaluation is not its only use."""
    found = policies.info(name)
    return not found.evaluation_only and not any(f.required for f in found.fields)


NAMES = [name for name in policies.names() if decides(name)]
SPECS = [*NAMES, "hermes:released", "hermes(summary_position=latest_evicted)", "uniform(by=token)"]


def budgeted(spec: str, budget: int) -> Policy:
    return policies.get(spec) if spec == "full" else policies.get(spec, budget_tokens=budget)


def views_for(policy: Policy, seed: int, layers: int = 4) -> list[LayerView]:
    """Views with what the policy asks to read, and its own first observations carried."""
    views = [
        layer_view(
            layer=layer,
            layers=layers,
            frames=TOKENS // 4,
            per_head=policy.per_head,
            guidance=[g.name for g in policy.guidance(())],
            seed=seed,
        )
        for layer in range(layers)
    ]
    return [replace(view, carried=dict(policy.observe(view))) for view in views]


@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=15, deadline=None)
@given(budget=st.integers(16, TOKENS - 1), seed=st.integers(0, 1000))
def test_one_decision(spec: str, budget: int, seed: int) -> None:
    """Budget, order, range and shape of one decision; the same again when asked again."""
    policy = budgeted(spec, budget)
    views = views_for(policy, seed)
    decisions = decide(policy, views)
    again = decide(policy, views_for(policy, seed))
    total = 0
    for view, decision, other in zip(views, decisions, again, strict=True):
        kept = decision.kept
        made = 0 if decision.merged is None else decision.merged.keys.shape[1]
        assert kept.shape[0] in (1, view.kv_heads)
        assert kept.shape[-1] + made <= decision.budget
        assert kept.min() >= 0
        assert kept.max() < view.tokens
        assert (kept.diff(dim=-1) > 0).all()
        assert torch.equal(kept, other.kept)
        assert torch.isfinite(decision.scores.total).all()
        total += kept.shape[-1] + made
    if policy.budget_tokens is not None:
        assert total <= len(views) * budget


@pytest.mark.parametrize("spec", [s for s in SPECS if not s.startswith("recent_frames")])
@settings(max_examples=5, deadline=None)
@given(extra=st.integers(0, 50), seed=st.integers(0, 1000))
def test_a_budget_as_large_as_the_stream_keeps_all(spec: str, extra: int, seed: int) -> None:
    policy = budgeted(spec, 4 * TOKENS + extra)  # four times: budgets may be uneven over layers
    stream = FakeStream(policy, layers=4, seed=seed)
    for _ in range(6):
        stream.feed(1)
    for view in stream.views:
        assert view.frame[0].tolist() == [frame for frame in range(6) for _ in range(4)]


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("spec", SPECS)
def test_ten_compressions(spec: str, axes: int) -> None:
    """Over a long stream each layer stays within its budget, in order, and two runs agree."""
    policy = budgeted(spec, 20)
    runs = [FakeStream(policy, layers=5, options={"axes": axes, "dim": 12}) for _ in range(2)]
    for _ in range(12):
        for stream in runs:
            stream.feed(2)
        if runs[0].decisions is None:
            continue
        for view, decision in zip(runs[0].views, runs[0].decisions, strict=True):
            assert view.tokens <= max(decision.budget, 0)
            ids = view.ids[view.ids < 1_000_000].reshape(view.ids.shape[0], -1)
            if (view.ids < 1_000_000).all():
                assert (ids.diff(dim=-1) > 0).all()
    for one, two in zip(runs[0].views, runs[1].views, strict=True):
        assert torch.equal(one.ids, two.ids)
        assert one.keys is not None
        assert two.keys is not None
        assert torch.equal(one.keys, two.keys)


@pytest.mark.parametrize("spec", SPECS)
def test_ties_go_to_the_newest(spec: str) -> None:
    """Equal scores keep the newest tokens, unless the policy's selection is a rule of its own."""
    policy = budgeted(spec, 20)
    view = views_for(policy, 0)[1]
    if type(policy).select is not Policy.select:
        assert type(policy).select.__doc__, "a selection of its own must say its rule"
        return
    for heads in (1, view.kv_heads):
        kept = policy.select(Scores(torch.zeros(heads, view.tokens)), 7, view)
        assert kept.tolist() == [list(range(view.tokens - 7, view.tokens))] * heads


@pytest.mark.parametrize("spec", SPECS)
def test_listing_and_manifest(spec: str) -> None:
    """Every policy says what it is, every field what it means, and the manifest rebuilds the same policy."""
    policy = budgeted(spec, 100)
    found = policies.info(policy.name)
    assert found.title
    assert found.source
    assert found.doc
    assert all(field.doc for field in found.fields)
    assert policies.from_config(policy.config()) == policy


def test_unbounded_is_no_budget_anyone_asks_for() -> None:
    """Policies that limit in tokens never hand out the marker for 'not in tokens'."""
    for name in NAMES:
        if name != "recent_frames" and name != "full":
            given_budgets = budgeted(name, 100).budgets(4)
            assert given_budgets is None or max(given_budgets) < UNBOUNDED
