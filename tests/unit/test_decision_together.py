"""Layers of one shape decide together: what they keep is what each of them would keep alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hermes_lab.engine.batches import batches
from hermes_lab.engine.cache import LayerState, select_layers
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Merged, Policy, Scores
from hermes_lab.retention import plan as decision
from hermes_lab.retention.checks import check_finite

KV_HEADS = 2


@dataclass(frozen=True, kw_only=True)
class Given(Policy):
    """Ranks by totals that the test gives; merges what the test gives."""

    totals: tuple[Tensor, ...] = ()
    chosen: tuple[Tensor, ...] | None = None

    def score(self, view: LayerView) -> Scores:
        return Scores(self.totals[view.layer])


class Own(Given):
    """Answers `select` itself."""

    def select(self, scores: Scores, count: int, view: LayerView) -> Tensor:
        assert self.chosen is not None
        return self.chosen[view.layer]


def view(layer: int, tokens: int) -> LayerView:
    ids = torch.arange(tokens)[None]
    known = SimpleNamespace(
        layer=layer, layers=9, ids=ids, tokens=tokens, kv_heads=KV_HEADS, keys=None,
        positions=ids[:, None],
    )  # fmt: skip
    return cast(LayerView, known)


@st.composite
def layers(draw: st.DrawFn) -> list[tuple[Tensor, int]]:
    """Totals with ties, of one or several heads, and a budget, for layers of a few different shapes."""
    found: list[tuple[Tensor, int]] = []
    for _ in range(draw(st.integers(1, 6))):
        heads, tokens = draw(st.sampled_from([1, KV_HEADS])), draw(st.sampled_from([1, 5, 8]))
        values = draw(st.lists(st.integers(0, 3), min_size=heads * tokens, max_size=heads * tokens))
        total = torch.tensor(values, dtype=torch.float32).reshape(heads, tokens)
        found.append((total, draw(st.sampled_from([0, 3, 5, 9]))))
    return found


@given(layers())
def test_each_layer_keeps_its_best_newest_first(made: list[tuple[Tensor, int]]) -> None:
    policy = Given(totals=tuple(total for total, _ in made))
    views = [view(n, total.shape[1]) for n, (total, _) in enumerate(made)]
    budgets = [budget for _, budget in made]
    plans = {p.layer: p for p in decision.plan(policy, views, budgets)}
    for layer, (total, budget) in enumerate(made):
        tokens = total.shape[1]
        if budget >= tokens:
            assert layer not in plans
            continue
        expected = [
            sorted(sorted(range(tokens), key=lambda t, row=row: (-row[t], -t))[:budget])
            for row in total.tolist()
        ]
        assert plans[layer].kept.tolist() == expected


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([[2, 1]]), torch.tensor([[1, 1]]), torch.tensor([[-1, 2]]),
        torch.tensor([[4, 5]]), torch.tensor([[0, 1, 2]]), torch.tensor([[0.0, 1.0]]),
        torch.tensor([0, 1]), torch.zeros(3, 1, dtype=torch.long),
    ],
)  # fmt: skip
def test_of_many_layers_the_wrong_one_is_named(wrong: Tensor) -> None:
    good = torch.tensor([[1, 4]])
    policy = Own(totals=(torch.zeros(1, 5),) * 4, chosen=(good, good, wrong, good))
    with pytest.raises(PolicyError, match=r"from select\(\) at layer 2; they must be ascending"):
        decision.plan(policy, [view(n, 5) for n in range(4)], [2] * 4)


def test_indices_of_ragged_layers_are_held_against_their_own_length() -> None:
    chosen = torch.tensor([[3, 4]])
    policy = Own(totals=(torch.zeros(1, 8), torch.zeros(1, 4)), chosen=(chosen, chosen))
    with pytest.raises(PolicyError, match="at layer 1; they must be ascending, between 0 and 3"):
        decision.plan(policy, [view(0, 8), view(1, 4)], [2, 2])


def test_a_merged_token_that_is_not_finite_is_traced_to_its_layer() -> None:
    ones = torch.ones(KV_HEADS, 1, 4)
    good = Merged(ones, ones, torch.zeros(1, 1, dtype=torch.long), (torch.tensor([0]),))
    policy = Given()
    check_finite(policy, {})
    check_finite(policy, {3: good, 5: good})
    for fault in (float("nan"), float("inf")):
        with pytest.raises(PolicyError, match=r"returned NaN from merge\(\) at layer 5\."):
            check_finite(policy, {3: good, 5: replace(good, values=ones * fault), 6: good})


def test_ragged_layers_and_heads_are_gathered_as_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)

    def state(heads: int, tokens: int, **more: Any) -> LayerState:
        return LayerState(
            keys=torch.rand(1, KV_HEADS, tokens, 4, generator=generator),
            values=torch.rand(1, KV_HEADS, tokens, 4, generator=generator),
            ids=torch.randint(0, 99, (heads, tokens), generator=generator),
            positions=torch.randint(0, 99, (heads, 3, tokens), generator=generator),
            **more,
        )

    carried = {"seen": torch.rand(KV_HEADS, 6, generator=generator)}
    states = [state(1, 6), state(KV_HEADS, 6), state(1, 9), state(1, 6, carried=carried)]
    shared, split = torch.tensor([[0, 2, 5]]), torch.tensor([[0, 2, 5], [1, 3, 4]])
    for indices in ([shared] * 4, [split] * 4, [shared, split, shared[:, :1], split]):
        for index, old, new in zip(indices, states, select_layers(states, indices), strict=True):
            assert old.keys is not None and new.keys is not None
            heads = max(len(index), len(old.ids))
            for head in range(KV_HEADS):
                at = index[head % len(index)]
                row = head % len(old.ids)
                assert torch.equal(new.keys[0, head], old.keys[0, head][at])
                assert torch.equal(new.ids[head % heads], old.ids[row][at])
                assert torch.equal(new.positions[head % heads], old.positions[row][:, at])
                for name, value in old.carried.items():
                    assert torch.equal(new.carried[name][head], value[head][at])


def test_groups_keep_the_order_of_layers() -> None:
    assert batches("abcab") == [[0, 3], [1, 4], [2]]
    assert batches([]) == []
