"""One compression: show every layer to the policy and check what it answers.

Nothing is applied (see `pruning`) before every layer's answer has been checked, so that a faulty policy cannot
leave the cache half pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.alike import alike
from hermes_lab.contract import (
    call,
    check_budgets,
    check_finite,
    check_indices,
    check_merged,
    check_scores,
    expect,
    name_of,
)
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Merged, Policy, Scores, top_newest


@dataclass(frozen=True)
class LayerPlan:
    """A checked answer for one layer."""

    layer: int
    view: LayerView
    scores: Scores
    kept: Int[Tensor, "head kept"]
    merged: Merged | None
    budget: int


def plan(policy: Policy, views: Sequence[LayerView], budgets: Sequence[int]) -> list[LayerPlan]:
    """Ask the policy about all layers and check its answers.

    Raises:
        PolicyError: it raised, or answered with wrong types or shapes, NaN, bad indices or too many tokens.
    """
    layers = len(views)
    raw = [call(policy, "score", v.layer, lambda v=v: policy.score(v)) for v in views]
    scores = check_scores(policy, "score", views, raw)
    mixed = call(policy, "mix", None, lambda: policy.mix(list(scores), views))
    mixed = expect(policy, "mix", None, mixed, Sequence, "a list of Scores")
    if len(mixed) != layers:
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned {len(mixed)} scores from mix() for {layers} layers."
        )
    if any(new is not old for new, old in zip(mixed, scores, strict=True)):
        scores = check_scores(policy, "mix", views, mixed)
    allowed = call(
        policy, "adapt_budgets", None, lambda: policy.adapt_budgets(list(budgets), scores, views)
    )
    allowed = check_budgets(policy, allowed, layers, limit=sum(budgets))
    counts = [_room(policy, view, budget) for view, budget in zip(views, allowed, strict=True)]
    kept = _select(policy, views, scores, counts)
    plans: list[LayerPlan] = []
    for view, score, budget, chosen in zip(views, scores, allowed, kept, strict=True):
        if chosen.shape[1] == view.tokens:
            continue
        merged = call(
            policy, "merge", view.layer,
            lambda view=view, score=score, chosen=chosen: policy.merge(view, chosen, score),
        )  # fmt: skip
        merged = check_merged(policy, view, merged, budget - chosen.shape[1])
        plans.append(LayerPlan(view.layer, view, score, chosen, merged, budget))
    check_finite(policy, {p.layer: p.merged for p in plans if p.merged is not None})
    return plans


def _room(policy: Policy, view: LayerView, budget: int) -> int:
    """How many of its candidates a layer may keep."""
    if view.tokens <= budget:
        return budget
    reserved = call(
        policy, "reserve", view.layer, lambda: int(policy.reserve(view.layer, view.layers))
    )
    return max(budget - reserved, 0)


def _select(
    policy: Policy, views: Sequence[LayerView], scores: Sequence[Scores], counts: Sequence[int]
) -> list[Int[Tensor, "head kept"]]:
    """Checked indices of the candidates that each layer keeps."""
    if type(policy).select is Policy.select:
        return _best([s.total.to(v.ids.device) for s, v in zip(scores, views, strict=True)], counts)
    raw = [
        call(
            policy, "select", view.layer,
            lambda view=view, score=score, count=count: policy.select(score, count, view),
        )
        for view, score, count in zip(views, scores, counts, strict=True)
    ]  # fmt: skip
    return check_indices(policy, "select", views, raw, counts)


def _best(
    totals: Sequence[Float[Tensor, "head token"]], counts: Sequence[int]
) -> list[Int[Tensor, "head kept"]]:
    """`Policy.select` as it is by default, of all layers that are alike at once: ranking knows rows, not layers."""
    kept: list[Tensor] = [torch.empty(0)] * len(totals)
    keys = [(t.shape, t.dtype, t.device, n) for t, n in zip(totals, counts, strict=True)]
    for layers in alike(keys):
        together = top_newest(torch.cat([totals[n] for n in layers]), counts[layers[0]])
        for layer, rows in zip(layers, together.split(totals[layers[0]].shape[0]), strict=True):
            kept[layer] = rows
    return kept
