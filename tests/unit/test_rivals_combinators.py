"""Policies made of policies: each way of composing against doing the same by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from hermes_lab.errors import PolicyError
from hermes_lab.policies import get
from hermes_lab.policies.base import UNBOUNDED, LayerView, Need, Policy, ReadPlan, Scores
from hermes_lab.policies.combine.composed import Composed
from hermes_lab.policies.combine.prefiltered import Prefiltered
from hermes_lab.policies.combine.several import Banded, Layered, narrow
from hermes_lab.policies.combine.wrap import (
    Instant,
    SharedHeads,
    WithBudget,
    WithPositions,
    WithSummary,
)
from hermes_lab.policies.hermes import Hermes
from hermes_lab.policies.parts.scoring import band_of
from tests.fabricate import Decision, FakeStream, decide, layer_view, rotate_1d
from tests.unit.test_rivals_admit import arrival

LAYERS = 10  # one shallow, six middle, three deep


def run(policy: Policy, steps: int = 8) -> FakeStream:
    names = [g.name for g in policy.guidance(())]
    stream = FakeStream(policy, layers=LAYERS, options={"guidance": names})
    for _ in range(steps):
        stream.feed(2)
    return stream


def views_for(*policies: Policy, per_head: bool) -> list[LayerView]:
    """Views that hold the same attention under every name that one of the policies reads it by."""
    views: list[LayerView] = []
    for i in range(LAYERS):
        names = sorted({g.name.split("/")[-1] for p in policies for g in p.guidance(())})
        view = layer_view(layer=i, layers=LAYERS, frames=6, per_head=per_head, guidance=names)
        attention = dict(view.attention)
        queries = dict(view.queries)
        for policy in policies:
            for guidance in policy.guidance(()):
                attention[guidance.name] = view.attention[guidance.name.split("/")[-1]]
                queries[guidance.name] = view.queries[guidance.name.split("/")[-1]]
        view = replace(view, attention=attention, queries=queries)
        carried: dict[str, torch.Tensor] = {}
        for policy in policies:
            carried |= policy.observe(view)
        views.append(replace(view, carried=carried))
    return views


def same(one: Decision, two: Decision) -> None:
    assert torch.equal(one.kept, two.kept)
    torch.testing.assert_close(one.scores.total, two.scores.total)
    assert (one.merged is None) == (two.merged is None)
    if one.merged is not None and two.merged is not None:
        torch.testing.assert_close(one.merged.keys, two.merged.keys)
        torch.testing.assert_close(one.merged.values, two.merged.values)


# --- by layer ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("layers", range(1, 130))
def test_bands_are_those_of_hermes(layers: int) -> None:
    names = ("shallow", "middle", "deep")
    expected = Hermes().bands_of(layers)
    assert tuple(names[band_of(layer, layers)] for layer in range(layers)) == expected


def test_banded_decides_each_band_as_its_policy_would() -> None:
    shallow, middle, deep = get("fifo"), get("tova"), get("mukv")
    banded = Banded(shallow=shallow, middle=middle, deep=deep, budget_tokens=9)
    views = views_for(banded, deep, per_head=False)
    together = decide(banded, views)
    for band, part in enumerate((shallow, middle, deep)):
        alone = decide(replace(part, budget_tokens=9), views)
        for layer in range(LAYERS):
            if band_of(layer, LAYERS) == band:
                same(together[layer], alone[layer])


def test_the_same_policy_in_all_bands_is_that_policy() -> None:
    """Also where it smooths across layers, reads prompts, makes tokens and has budgets by layer."""
    for spec in (
        "hermes(budget_weights=(0.7, 1, 1.3))",
        "h2o",
        "streammem",
        "pyramidkv(window_tokens=2)",
    ):
        part = get(spec, budget_tokens=10)
        banded = Banded(shallow=part, middle=part, deep=part)
        assert banded.budgets(LAYERS) == part.budgets(LAYERS)
        views = views_for(banded, part, per_head=part.per_head)
        for one, two in zip(decide(banded, views), decide(part, views), strict=True):
            same(one, two)


def test_banded_smooths_each_part_as_if_it_had_the_whole_model() -> None:
    hermes, fifo = get("hermes", budget_tokens=10), get("fifo", budget_tokens=10)
    banded = Banded(shallow=fifo, middle=hermes, deep=fifo)
    views = views_for(banded, hermes, per_head=False)
    together, alone = decide(banded, views), decide(hermes, views)
    for layer in range(1, 7):
        same(together[layer], alone[layer])


def test_banded_mixes_heads() -> None:
    """A part that shares one set over the heads keeps the same tokens for all of them; the other does not."""
    banded = get("banded(shallow=fifo, middle=fifo, deep=knorm)", budget_tokens=8)
    stream = run(banded)
    assert banded.per_head
    for layer, view in enumerate(stream.views):
        assert view.ids.shape == (2, 8)
        assert torch.equal(view.ids[0], view.ids[1]) is (band_of(layer, LAYERS) < 2)


def test_layered_follows_its_list() -> None:
    layered = Layered(parts=("fifo", *["knorm"] * 8, "sink_recent"), budget_tokens=8)
    views = views_for(layered, per_head=True)
    together = decide(layered, views)
    for layer, spec in enumerate(layered.given()):
        part = spec if isinstance(spec, Policy) else get(spec)
        alone = decide(part, views)[layer]
        assert torch.equal(together[layer].kept, alone.kept.expand(2, -1))
    with pytest.raises(PolicyError, match="lists 10 policies, but the model has 4"):
        layered.budgets(4)


def test_parts_keep_their_own_budgets() -> None:
    banded = Banded(shallow="fifo(budget_tokens=4)", middle="fifo", deep="full", budget_tokens=6)
    assert banded.budgets(LAYERS) == [4] + [6] * 6 + [UNBOUNDED] * 3


def test_traits_are_unions() -> None:
    banded = get("banded(shallow=h2o, middle=tova, deep=rekv)")
    assert banded.needs == {Need.RECEIVED_ATTENTION, Need.CHUNK_ATTENTION, Need.KEYS}
    assert banded.per_head
    assert banded.archives
    assert banded.recalls
    assert get("banded(shallow=fifo, middle=fifo, deep=oracle)").evaluation_only
    assert get("instant(inner=oracle)").evaluation_only


def test_impossible_compositions_are_refused_in_words() -> None:
    with pytest.raises(PolicyError, match="2 parts that act before the decoder"):
        get("banded(shallow=fluxmem, middle=streammem, deep=fifo)")
    with pytest.raises(PolicyError, match="read a question in different ways"):
        get("banded(shallow=dscache, middle=recent_frames, deep=fifo)")
    with pytest.raises(PolicyError, match="already makes tokens"):
        get("with_summary(inner=instant(inner=hermes))")
    with pytest.raises(PolicyError, match="does not act before the decoder"):
        get("prefiltered(inner=fifo, gate=h2o)")
    with pytest.raises(PolicyError, match="two stages or more"):
        get('composed(parts=("h2o",))')
    with pytest.raises(PolicyError, match="needs a budget of its own"):
        get('composed(parts=("h2o", "fifo(budget_tokens=4)"))')
    with pytest.raises(PolicyError, match="There is no policy 'h3o'"):
        get("instant(inner=h3o)")
    with pytest.raises(PolicyError, match="needs the field 'inner'"):
        get("instant")


# --- in turn ----------------------------------------------------------------------------------------
def test_composed_stages_choose_among_what_is_left() -> None:
    first, second = get("knorm", budget_tokens=14), get("value_norm", budget_tokens=9)
    composed = Composed(parts=(first, second))
    views = views_for(composed, per_head=True)
    for view, together in zip(views, decide(composed, views), strict=True):
        for head in range(2):
            small = sorted(range(24), key=lambda j: (float(view.keys[head, j].norm()), -j))[:14]
            large = sorted(small, key=lambda j: (-float(view.values[head, j].norm()), -j))[:9]
            assert together.kept[head].tolist() == sorted(large)
            stage = together.scores.terms["stage"][head]
            assert {j for j in range(24) if stage[j] == 1} == set(small)
            fallen = together.scores.total[head][stage == 0]
            assert fallen.max() < together.scores.total[head][stage == 1].min()
            assert together.scores.terms["value_norm"][head][stage == 0].isnan().all()


def test_three_stages() -> None:
    """Each stage sees only what the one before it left, under the right ids."""
    stages = ("fifo(budget_tokens=18)", "knorm(budget_tokens=12)", "value_norm(budget_tokens=5)")
    composed = Composed(parts=stages)
    (view,) = [layer_view(frames=6, per_head=True)]
    (decision,) = decide(composed, [view])
    for head in range(2):
        newest = list(range(6, 24))
        small = sorted(newest, key=lambda j: (float(view.keys[head, j].norm()), -j))[:12]
        large = sorted(small, key=lambda j: (-float(view.values[head, j].norm()), -j))[:5]
        assert decision.kept[head].tolist() == sorted(large)


def test_composed_uses_the_last_stages_mixing_and_merging() -> None:
    """With a first stage that lets everything through, composing changes nothing."""
    hermes = get("hermes", budget_tokens=10)
    composed = Composed(parts=("fifo(budget_tokens=1000)", hermes))
    views = views_for(composed, hermes, per_head=False)
    for one, two in zip(decide(composed, views), decide(hermes, views), strict=True):
        same(one, two)


def test_narrowed_views_hold_what_was_left() -> None:
    view = layer_view(frames=4, per_head=True, axes=3)
    index = torch.tensor([[1, 5, 9], [0, 2, 15]])
    left = narrow(view, index)
    for head in range(2):
        assert torch.equal(left.ids[head], view.ids[head, index[head]])
        assert torch.equal(left.positions[head], view.positions[head][:, index[head]])
        assert torch.equal(left.keys[head], view.keys[head, index[head]])
        rows = view.attention["chunk"]
        for g in (0, 1):
            assert torch.equal(
                left.attention["chunk"][2 * head + g], rows[2 * head + g][:, index[head]]
            )


# --- one thing changed ------------------------------------------------------------------------------
def test_with_budget_shares_the_total_by_weight() -> None:
    policy = WithBudget(inner="fifo(budget_tokens=100)")
    budgets = policy.budgets(LAYERS)
    weights = [0.7] + [1.0] * 6 + [1.3] * 3
    for budget, weight in zip(budgets, weights, strict=True):
        assert abs(budget - 1000 * weight / sum(weights)) <= 2
    assert sum(budgets) == 1000
    assert min(WithBudget(inner="fifo(budget_tokens=5)", weights=(0, 0, 1)).budgets(LAYERS)) == 1
    assert policy.budget_tokens == 100
    assert WithBudget(inner="fifo", budget_tokens=7).part.budget_tokens == 7
    assert WithBudget(inner="fifo").budgets(4) is None
    with pytest.raises(PolicyError, match="has 3 weights, but the model has 10 layers"):
        WithBudget(inner="fifo(budget_tokens=9)", by="layer", weights=(1, 2, 3)).budgets(LAYERS)


@pytest.mark.parametrize("per_head", [True, False])
@pytest.mark.parametrize("axes", [1, 3])
def test_with_summary_folds_what_was_evicted(per_head: bool, axes: int) -> None:
    policy = WithSummary(
        inner="knorm(budget_tokens=7)" if per_head else "tova(budget_tokens=7)", layers="all"
    )
    view = layer_view(frames=3, per_head=per_head, axes=axes, dim=12)
    (decision,) = decide(policy, [view])
    assert decision.kept.shape[-1] == 6
    merged = decision.merged
    heads = view.ids.shape[0]
    gone = [[j for j in range(12) if j not in decision.kept[h].tolist()] for h in range(heads)]
    at = torch.stack(
        [max(view.positions[h, a, j] for h in range(heads) for j in decision.kept[h]) + 1 for a in range(axes)]
    )  # fmt: skip
    assert torch.equal(merged.positions[:, 0], at)
    for kv in range(2):
        own = gone[min(kv, heads - 1)]
        turned = [
            rotate_1d(
                view.keys[kv : kv + 1, j : j + 1],
                view.positions[min(kv, heads - 1)][None, :, j : j + 1],
                at[None, :, None],
            )
            for j in own
        ]
        torch.testing.assert_close(merged.keys[kv, 0], torch.cat(turned).mean(0)[0])
        torch.testing.assert_close(merged.values[kv, 0], view.values[kv, own].mean(0))
    everything = {int(view.ids[h, j]) for h in range(heads) for j in gone[h]}
    assert set(merged.sources[0].tolist()) == everything


def test_with_summary_is_hermes_own() -> None:
    hermes = get("hermes", budget_tokens=9)
    other = WithSummary(inner=replace(hermes, summary=False))
    assert isinstance(other.part, Hermes)
    with pytest.raises(PolicyError, match="already makes tokens"):
        WithSummary(inner=hermes)
    plain = WithSummary(inner="fifo(budget_tokens=9)")
    assert [plain.reserve(i, LAYERS) for i in range(LAYERS)] == [hermes.reserve(i, LAYERS) for i in range(LAYERS)]  # fmt: skip


def test_other_wrappers_change_what_they_say() -> None:
    assert WithPositions(inner="h2o", rule="eager").default_positions == "eager"
    assert Instant(inner="hermes").read_plan() == ReadPlan(4, True, True)
    assert Instant(inner="h2o").read_plan() == ReadPlan(4, True, False)
    assert Instant(inner="recent_frames", recent_frames=2).read_plan() == ReadPlan(2, False, True)
    assert Instant(inner="hermes").default_positions == "lazy"
    shared = SharedHeads(inner="knorm(budget_tokens=5)")
    assert not shared.per_head
    view = layer_view(frames=3)
    torch.testing.assert_close(
        decide(shared, [view])[0].scores.total, -view.keys.norm(dim=-1).mean(0, keepdim=True)
    )


@dataclass(frozen=True, kw_only=True)
class Halves(Policy):
    """Lets every other visual token in, with a term."""

    name: ClassVar[str] = "halves"

    def admit(self, arrival, memory):  # type: ignore[no-untyped-def]
        from hermes_lab.policies.base import Admission

        memory["calls"] = memory.get("calls", 0) + 1
        keep = arrival.visual[::2]
        return Admission(keep, arrival.embeds[keep] + 1, {"halves": arrival.frame.float()})

    def score(self, view: LayerView) -> Scores:
        return Scores(view.frame.float())


def test_prefiltered_chains_admissions() -> None:
    chunk = arrival(frames=3, grid=(4, 4), marker=False)
    memory: dict[str, object] = {}
    both = Prefiltered(inner=Halves(), gate="every_nth(stride=2)")
    admission = both.admit(chunk, memory)
    expected = [*range(0, 16, 2), *range(32, 48, 2)]
    assert admission.keep.tolist() == expected
    torch.testing.assert_close(admission.embeds, chunk.embeds[expected] + 1)
    assert admission.terms["halves"][expected].tolist() == [0.0] * 8 + [2.0] * 8
    assert admission.terms["halves"][16:32].isnan().all()
    assert memory["inner"] == {"calls": 1}
    alone = Prefiltered(inner="h2o", gate="every_nth(stride=2)").admit(chunk, {})
    assert alone.keep.tolist() == [*range(16), *range(32, 48)]
    twice = Prefiltered(inner=Halves(), gate=Halves())
    again = twice.admit(chunk, {})
    assert again.keep.tolist() == list(range(0, 48, 4))
    torch.testing.assert_close(again.embeds, chunk.embeds[::4] + 2)


def test_prefiltered_merges_lead_to_the_same_place() -> None:
    """What the gate merged into a token that the inner policy merges on ends where that one ends."""
    chunk = arrival(frames=4, grid=(4, 4), drift=0.02, seed=1, marker=False)
    policy = Prefiltered(inner="fluxmem", gate="merge_similar(similarity=0.5)")
    admission = policy.admit(chunk, {})
    assert set(admission.merged_into.values()) <= set(admission.keep.tolist())
    assert not set(admission.merged_into) & set(admission.keep.tolist())
