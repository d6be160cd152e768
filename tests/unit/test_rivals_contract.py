"""One table for all policies and ways to compose them: what each must hold to, on made-up streams (no model)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hermes_lab import policies
from hermes_lab.policies.base import LayerView, Policy, Scores
from tests.fabricate import FakeStream, decide, layer_view

LAYERS = 5
COMPOSED = [
    "instant(inner=hermes)",
    "instant(inner=infinipot_v)",
    "with_budget(inner=h2o)",
    "with_budget(inner=hermes, weights=(1, 2, 3, 2, 1), by=layer)",
    "with_summary(inner=fifo)",
    "with_summary(inner=snapkv, layers=all)",
    "with_summary(inner=with_budget(inner=tova), layers=all)",
    "with_positions(inner=keydiff, rule=eager)",
    "shared_heads(inner=infinipot_v)",
    "shared_heads(inner=h2o)",
    "prefiltered(inner=hermes, gate=every_nth)",
    "prefiltered(inner=streammem, gate=fluxmem)",
    "banded(shallow=fifo, middle=h2o, deep=hermes)",
    "banded(shallow=fifo, middle=tova, deep=livevlm)",
    "banded(shallow=mukv, middle=streamkv, deep=with_summary(inner=knorm))",
    "banded(shallow=infinipot_v, middle=uniform, deep=instant(inner=streammem))",
    'layered(parts=("fifo", "h2o", "fifo", "hermes", "mukv"))',
    'composed(parts=("knorm(budget_tokens=28)", "h2o"))',
    'composed(parts=("uniform(budget_tokens=28)", "value_norm(budget_tokens=24)", "hermes"))',
    'composed(parts=("h2o(budget_tokens=28)", "streamkv"))',
    'composed(parts=("tova(budget_tokens=28)", "livevlm"))',
    "instant(inner=banded(shallow=fifo, middle=hermes, deep=oracle))",
]
SINGLE = [
    name
    for name in policies.names()
    if name != "full" and not any(f.required for f in policies.info(name).fields)
]
SPECS = [*SINGLE, *COMPOSED]


def stream(policy: Policy, axes: int = 1, seed: int = 0) -> FakeStream:
    names = [guidance.name for guidance in policy.guidance(())]
    return FakeStream(
        policy, layers=LAYERS, options={"axes": axes, "dim": 12, "guidance": names}, seed=seed
    )


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("spec", SPECS)
def test_ten_compressions(spec: str, axes: int) -> None:
    """Budget, order, shapes, finite scores, reason terms and determinism, over a long stream."""
    policy = policies.get(spec, budget_tokens=20)
    runs = [stream(policy, axes), stream(policy, axes)]
    decided = 0
    budgets = policy.budgets(LAYERS)
    for _ in range(13):
        for run in runs:
            run.feed(2)
        if runs[0].decisions is None:
            continue
        decided += 1
        for view, decision in zip(runs[0].views, runs[0].decisions, strict=True):
            heads, kept = decision.kept.shape
            assert heads == view.ids.shape[0] == (view.kv_heads if policy.per_head else 1)
            assert kept == 0 or bool((decision.kept.diff(dim=-1) > 0).all())
            assert decision.scores.total.isfinite().all()
            assert decision.scores.terms, "a decision must say its reasons"
            for term in decision.scores.terms.values():
                assert term.shape == decision.scores.total.shape
            limit = decision.budget if budgets is not None else 0
            assert view.tokens <= limit or view.tokens == kept
        if sum(budgets or ()) < 10**6:
            assert sum(view.tokens for view in runs[0].views) <= sum(budgets or ())
    assert decided >= 10
    for one, two in zip(runs[0].views, runs[1].views, strict=True):
        assert torch.equal(one.ids, two.ids)
        assert torch.equal(one.keys, two.keys)


@pytest.mark.parametrize("spec", COMPOSED)
def test_a_budget_as_large_as_the_stream_keeps_all(spec: str) -> None:
    policy = policies.get(spec, budget_tokens=400)
    if spec.startswith("composed"):  # earlier stages have budgets of their own
        return
    run = stream(policy)
    for _ in range(6):
        run.feed(1)
    for view in run.views:
        assert view.frame[0].tolist() == [frame for frame in range(6) for _ in range(4)]


@pytest.mark.parametrize("spec", COMPOSED)
def test_manifests_rebuild_what_was_composed(spec: str) -> None:
    policy = policies.get(spec, budget_tokens=64)
    assert policies.from_config(policy.config()) == policy
    assert hash(policy) == hash(policies.get(spec, budget_tokens=64))


@pytest.mark.parametrize("spec", SPECS)
def test_scores_leave_the_view_alone(spec: str) -> None:
    """A view is read-only: what a policy was shown is bit-identical after it has decided."""
    policy = policies.get(spec, budget_tokens=20)
    names = [guidance.name for guidance in policy.guidance(())]
    views = [
        layer_view(
            layer=i, layers=LAYERS, frames=7, dim=12, guidance=names, per_head=policy.per_head
        )
        for i in range(LAYERS)
    ]
    views = [replace(view, carried=dict(policy.observe(view))) for view in views]
    before = [snapshot(view) for view in views]
    decide(policy, views)
    for view, old in zip(views, before, strict=True):
        for name, value in snapshot(view).items():
            assert torch.equal(value.nan_to_num(), old[name].nan_to_num()), name


def snapshot(view: LayerView) -> dict[str, torch.Tensor]:
    single = {n: getattr(view, n) for n in ("ids", "positions", "frame", "keys", "values")}
    single |= {"received": view.received, "received_queries": view.received_queries}
    many = {f"attention {n}": rows for n, rows in view.attention.items()}
    many |= {f"carried {n}": rows for n, rows in view.carried.items()}
    return {n: value.clone() for n, value in (single | many).items()}


def test_equal_scores_keep_the_newest() -> None:
    for name in ("h2o", "snapkv", "tova", "keydiff", "knorm", "value_norm", "lagkv", "mukv"):
        policy = policies.get(name, budget_tokens=5)
        view = layer_view(frames=3, per_head=policy.per_head)
        kept = policy.select(Scores(torch.zeros(view.ids.shape)), 5, view)
        assert kept.tolist() == [[7, 8, 9, 10, 11]] * view.ids.shape[0]


@pytest.mark.parametrize("spec", SPECS)
def test_what_a_policy_answered_is_nobody_elses(spec: str) -> None:
    """Answers may be written to: no policy, session or thread scores with tensors that the library keeps."""

    def decided() -> list[Scores]:
        policy = policies.get(spec, budget_tokens=20)
        names = [guidance.name for guidance in policy.guidance(())]
        views = [
            layer_view(
                layer=i, layers=LAYERS, frames=7, dim=12, guidance=names, per_head=policy.per_head
            )
            for i in range(LAYERS)
        ]
        views = [replace(view, carried=dict(policy.observe(view))) for view in views]
        return [decision.scores for decision in decide(policy, views)]

    first = decided()
    kept = [[value.clone() for value in (s.total, *s.terms.values())] for s in first]
    for scores in first:
        for value in (scores.total, *scores.terms.values()):
            for row in value.data.unbind():
                row.copy_(-torch.arange(len(row)))
    again = [[s.total, *s.terms.values()] for s in decided()]
    for one, two in zip(kept, again, strict=True):
        for before, after in zip(one, two, strict=True):
            assert torch.equal(before.nan_to_num(-1.0), after.nan_to_num(-1.0))
