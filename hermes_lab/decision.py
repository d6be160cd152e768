"""One compression: show every layer to the policy and check what it answers.

Nothing is applied (see `pruning`) before every layer's answer has been checked, so that a faulty policy cannot
leave the cache half pruned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab import plain_answers
from hermes_lab.alike import alike
from hermes_lab.cache import LayerState
from hermes_lab.calling import Seal, call, expect, name_of
from hermes_lab.contract import (
    Candidates,
    check_budgets,
    check_finite,
    check_indices,
    check_merged,
    check_scores,
    copied,
    copies,
)
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Merged, Policy, Scores, top_newest
from hermes_lab.snapshot import FloatArray


@dataclass(frozen=True)
class LayerPlan:
    """A checked answer for one layer, in tensors and arrays that the policy does not hold.

    Attributes:
        ids: global ids of the candidates.
        scores, terms: what was decided by, [head, token].
        kept: indices of those that stay.
    """

    layer: int
    ids: Int[Tensor, "head token"]
    scores: FloatArray
    terms: Mapping[str, FloatArray]
    kept: Int[Tensor, "head kept"]
    merged: Merged | None
    budget: int


@dataclass(frozen=True)
class _Asked:
    """One compression's views beside what the engine knows of them by itself, layer by layer."""

    policy: Policy
    views: tuple[LayerView, ...]
    layers: tuple[Candidates, ...]
    seals: tuple[Seal, ...]


def plan(
    policy: Policy,
    views: Sequence[LayerView],
    budgets: Sequence[int],
    states: Sequence[LayerState] | None = None,
) -> list[LayerPlan]:
    """Ask the policy about all layers and check its answers.

    Args:
        states: what the layers hold, so that merged tokens can be held against it.

    Raises:
        PolicyError: it raised, wrote into what it was shown, or answered with wrong types or shapes, NaN, bad
            indices or too many tokens.
    """
    known = [None] * len(views) if states is None else states
    asked = _Asked(
        policy, tuple(views), tuple(map(Candidates.of, views, known)), tuple(map(Seal, views))
    )
    ids = copies([view.ids for view in views])
    scores = _score(asked)
    # before the policy gets them back, which may change them in place
    told, totals = _arrays(scores), copies([s.total for s in scores])
    allowed = call(
        policy, "adapt_budgets", None,
        lambda: policy.adapt_budgets(list(budgets), list(scores), asked.views), asked.seals,
    )  # fmt: skip
    allowed = check_budgets(policy, allowed, len(views), limit=sum(budgets))
    counts = [
        _room(policy, layer, budget) for layer, budget in zip(asked.layers, allowed, strict=True)
    ]
    kept = _select(asked, scores, totals, counts)
    plans: list[LayerPlan] = []
    for n, (layer, chosen) in enumerate(zip(asked.layers, kept, strict=True)):
        if chosen.shape[1] < layer.tokens:
            merged = _merge(asked, n, chosen, scores[n], allowed[n] - chosen.shape[1])
            plans.append(LayerPlan(layer.layer, ids[n], *told[n], chosen, merged, allowed[n]))
    check_finite(policy, {p.layer: p.merged for p in plans if p.merged is not None})
    return plans


def _score(asked: _Asked) -> list[Scores]:
    """Checked scores of all layers, mixed."""
    policy, layers = asked.policy, asked.layers
    raw = [
        call(policy, "score", layer.layer, lambda view=view: copied(policy.score(view)), [seal])
        for layer, view, seal in zip(layers, asked.views, asked.seals, strict=True)
    ]
    scores = check_scores(policy, "score", layers, raw)
    if type(policy).mix is Policy.mix:
        return scores
    mixed = call(policy, "mix", None, lambda: policy.mix(list(scores), asked.views), asked.seals)
    given = expect(policy, "mix", None, mixed, Sequence, "a list of Scores")
    listed = call(policy, "mix", None, lambda: list(given))
    if len(listed) != len(layers):
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned {len(listed)} scores from mix() for {len(layers)} layers."
        )
    return check_scores(policy, "mix", layers, listed)


def _arrays(scores: Sequence[Scores]) -> list[tuple[FloatArray, dict[str, FloatArray]]]:
    """Copies of totals and terms of all layers; one transfer for all of a shape."""
    tensors = [value for s in scores for value in (s.total, *s.terms.values())]
    found: dict[int, FloatArray] = {}
    for group in alike((t.shape, t.dtype, t.device) for t in tensors):
        together = torch.stack([tensors[n] for n in group]).float().cpu().numpy()
        found |= zip(group, together, strict=True)
    arrays = iter(found[n] for n in range(len(tensors)))
    return [(next(arrays), {name: next(arrays) for name in s.terms}) for s in scores]


def _room(policy: Policy, layer: Candidates, budget: int) -> int:
    """How many of its candidates a layer may keep."""
    if layer.tokens <= budget:
        return budget
    return max(budget - plain_answers.reserve(policy, layer.layer, layer.layers), 0)


def _select(
    asked: _Asked, scores: Sequence[Scores], totals: Sequence[Tensor], counts: Sequence[int]
) -> list[Int[Tensor, "head kept"]]:
    """Checked indices of the candidates that each layer keeps."""
    policy = asked.policy
    if type(policy).select is Policy.select:
        return _best([t.to(n.device) for t, n in zip(totals, asked.layers, strict=True)], counts)
    raw = [
        call(
            policy, "select", layer.layer,
            lambda view=view, score=score, count=count: copied(policy.select(score, count, view)), [seal],
        )
        for layer, view, seal, score, count in zip(
            asked.layers, asked.views, asked.seals, scores, counts, strict=True
        )
    ]  # fmt: skip
    return check_indices(policy, "select", asked.layers, raw, counts)


def _merge(
    asked: _Asked, n: int, kept: Int[Tensor, "head kept"], scores: Scores, room: int
) -> Merged | None:
    """Checked tokens that a layer makes out of those that go."""
    policy, layer, view = asked.policy, asked.layers[n], asked.views[n]
    shown = kept.clone()  # what is kept stays as it was checked
    raw = call(
        policy, "merge", layer.layer, lambda: policy.merge(view, shown, scores), [asked.seals[n]]
    )
    return check_merged(policy, layer, raw, room)


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
