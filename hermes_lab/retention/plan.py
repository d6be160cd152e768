"""One compression: show every layer to the policy and check what it answers.

Nothing is applied (see `pruning`) before every layer's answer has been checked, so that a faulty policy cannot
leave the cache half pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.engine.batches import batches
from hermes_lab.engine.cache import LayerState
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Merged, Policy, Scores, top_newest
from hermes_lab.retention import plain_answers
from hermes_lab.retention.calling import Seal, at, call, expect, name_of
from hermes_lab.retention.checks import (
    Candidates,
    check_budgets,
    check_finite,
    check_indices,
    check_merged,
    check_scores,
    copies,
    writes,
)
from hermes_lab.snapshot import FloatArray


@dataclass(frozen=True)
class LayerPlan:
    """A checked answer for one layer, in tensors and arrays that the policy does not hold.

    Attributes:
        ids: global ids of the candidates.
        scores, terms: what was decided by, [head, token].
        kept: indices of those that stay, for each KV head, or for all.
    """

    layer: int
    ids: Int[Tensor, "head token"]
    scores: FloatArray
    terms: Mapping[str, FloatArray]
    kept: Int[Tensor, "_head kept"]
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
    told = _arrays(scores)  # before the policy gets them back, which may change them in place
    totals = copies([s.total for s in scores])
    allowed = _budgets(asked, scores, list(budgets))
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


def _each_layer(asked: _Asked, method: str, ask: Callable[[int], Any]) -> list[Any]:
    """A method's answer for each layer; a tensor that was written to since it was returned is refused.

    Raises:
        PolicyError: the method raised, wrote into what it was shown, or used one tensor for several answers.
    """
    answers: list[Any] = []
    counted: list[list[tuple[Tensor, int]]] = []
    for n, (layer, seal) in enumerate(zip(asked.layers, asked.seals, strict=True)):

        def answer(n: int = n) -> tuple[Any, list[tuple[Tensor, int]]]:
            made = ask(n)
            return made, writes(made)

        made, before = call(asked.policy, method, layer.layer, answer, [seal])
        answers.append(made)
        counted.append(before)
    for layer, before in zip(asked.layers, counted, strict=True):
        if any(tensor._version != count for tensor, count in before):
            raise PolicyError(
                f"Policy {name_of(asked.policy)!r} wrote into what it had returned from {method}(){at(layer.layer)}; "
                "let it return a tensor of its own for each layer."
            )
    return answers


def _score(asked: _Asked) -> list[Scores]:
    """Checked scores of all layers, mixed."""
    policy, layers, views = asked.policy, asked.layers, asked.views
    raw = _each_layer(asked, "score", lambda n: policy.score(views[n]))
    scores = check_scores(policy, "score", layers, raw)
    if type(policy).mix is Policy.mix:
        return scores
    mixed = call(policy, "mix", None, lambda: policy.mix(list(scores), views), asked.seals)
    given = expect(policy, "mix", None, mixed, Sequence, "a list of Scores")
    listed = call(policy, "mix", None, lambda: list(given))
    if len(listed) != len(layers):
        raise PolicyError(
            f"Policy {name_of(policy)!r} returned {len(listed)} scores from mix() for {len(layers)} layers."
        )
    return check_scores(policy, "mix", layers, listed)


def _budgets(asked: _Asked, scores: Sequence[Scores], budgets: list[int]) -> list[int]:
    """Checked budgets, adapted to the scores."""
    policy, method = asked.policy, "adapt_budgets"
    if type(policy).adapt_budgets is Policy.adapt_budgets:
        return budgets
    allowed = call(
        policy, method, None,
        lambda: policy.adapt_budgets(list(budgets), list(scores), asked.views), asked.seals,
    )  # fmt: skip
    return check_budgets(policy, allowed, len(budgets), limit=sum(budgets))


def _arrays(scores: Sequence[Scores]) -> list[tuple[FloatArray, dict[str, FloatArray]]]:
    """Copies of totals and terms of all layers; one transfer for all of a shape."""
    tensors = [value for s in scores for value in (s.total, *s.terms.values())]
    found: dict[int, FloatArray] = {}
    for group in batches((t.shape, t.dtype, t.device) for t in tensors):
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
) -> list[Int[Tensor, "_head _kept"]]:
    """Checked indices of the candidates that each layer keeps."""
    policy, views = asked.policy, asked.views
    if type(policy).select is Policy.select:
        return _best([t.to(n.device) for t, n in zip(totals, asked.layers, strict=True)], counts)
    raw = _each_layer(asked, "select", lambda n: policy.select(scores[n], counts[n], views[n]))
    return copies(check_indices(policy, "select", asked.layers, raw, counts))


def _merge(
    asked: _Asked, n: int, kept: Int[Tensor, "head kept"], scores: Scores, room: int
) -> Merged | None:
    """Checked tokens that a layer makes out of those that go."""
    policy, layer, view = asked.policy, asked.layers[n], asked.views[n]
    if type(policy).merge is Policy.merge:
        return None
    shown = kept.clone()  # what is kept stays as it was checked
    raw = call(
        policy, "merge", layer.layer, lambda: policy.merge(view, shown, scores), [asked.seals[n]]
    )
    return check_merged(policy, layer, raw, room)


def _best(
    totals: Sequence[Float[Tensor, "_head _token"]], counts: Sequence[int]
) -> list[Int[Tensor, "_head _kept"]]:
    """`Policy.select` as it is by default, of all layers of one shape at once: ranking knows rows, not layers."""
    kept: list[Tensor] = [torch.empty(0)] * len(totals)
    keys = [(t.shape, t.dtype, t.device, n) for t, n in zip(totals, counts, strict=True)]
    for layers in batches(keys):
        together = top_newest(torch.cat([totals[n] for n in layers]), counts[layers[0]])
        for layer, rows in zip(layers, together.split(totals[layers[0]].shape[0]), strict=True):
            kept[layer] = rows
    return kept
