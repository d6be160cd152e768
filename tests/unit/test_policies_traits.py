"""What a policy says of itself is one truth: listings, classes and the engine read the same."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import pytest
import torch

from hermes_lab import policies
from hermes_lab.cli import main
from hermes_lab.policies import registry
from hermes_lab.policies.base import LayerView, Need, Policy, Scores, computed, settle
from hermes_lab.policies.combine.wrap import WithSummary, Wrapped
from hermes_lab.policies.hermes import BANDS, Hermes
from hermes_lab.policies.parts.scoring import band_of, edges_of, whole
from hermes_lab.policies.parts.summary import behind_kept, evicted
from tests.fabricate import layer_view
from tests.unit.test_rivals_contract import COMPOSED

TRAITS = (
    "needs", "per_head", "archives", "recalls", "default_positions", "evaluation_only",
    "attention_detail", "granularity",
)  # fmt: skip
READY = [n for n in registry.BUILTIN if not any(f.required for f in policies.info(n).fields)]
VARIANTS: dict[str, Any] = {
    "hermes": {Need.GUIDANCE, Need.KEYS, Need.VALUES},
    "hermes(summary=False)": {Need.GUIDANCE},
    "hermes:released(summary=False)": {Need.GUIDANCE},
    "streammem": {Need.GUIDANCE, Need.KEYS, Need.VALUES, Need.FEATURES},
    "streammem(similarity=None)": {Need.GUIDANCE, Need.KEYS, Need.VALUES},
    "streamingtom": {Need.SALIENCY, Need.KEYS},
    "streamingtom(dynamic_by=norm)": {Need.KEYS},
    "instant(inner=hermes(summary=False))": {Need.GUIDANCE},
    "with_summary(inner=h2o)": {Need.RECEIVED_ATTENTION, Need.KEYS, Need.VALUES},
    "prefiltered(inner=knorm, gate=merge_similar)": {Need.KEYS, Need.FEATURES},
    "banded(shallow=fifo, middle=h2o, deep=hermes(summary=False))": {
        Need.RECEIVED_ATTENTION,
        Need.GUIDANCE,
    },
}


@pytest.mark.parametrize("name", READY)
def test_class_instance_and_listing_agree(name: str) -> None:
    cls, made, listed = registry.policy_class(name), policies.get(name), policies.info(name)
    for trait in TRAITS:
        assert getattr(cls, trait) == getattr(made, trait), trait
        assert getattr(listed, trait, getattr(made, trait)) == getattr(made, trait), trait


@pytest.mark.parametrize("spec", VARIANTS)
def test_needs_follow_from_the_fields(spec: str) -> None:
    assert policies.get(spec).needs == policies.info(spec).needs == VARIANTS[spec]


def test_other_traits_follow_from_the_fields() -> None:
    assert policies.info("dscache(stride=2)").recalls
    assert not policies.info("dscache").recalls
    assert policies.info("with_positions(inner=fifo, rule=eager)").default_positions == "eager"
    assert policies.info("instant(inner=oracle)").evaluation_only
    assert policies.info("instant(inner=h2o)").per_head
    assert not policies.info("shared_heads(inner=h2o)").per_head


def test_the_command_line_lists_what_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies", "hermes(summary=False)", "--json"]) == 0
    assert '"guidance"' in (shown := capsys.readouterr().out)
    assert '"keys"' not in shown
    assert main(["policies", "hermes", "--json"]) == 0
    assert '"keys"' in capsys.readouterr().out


@pytest.mark.parametrize("spec", [*READY, *COMPOSED])
def test_nothing_but_fields_is_set_on_a_policy(spec: str) -> None:
    policy = policies.get(spec)
    assert vars(policy).keys() == {f.name for f in fields(policy)}
    again = replace(policy)
    assert [getattr(policy, t) for t in TRAITS] == [getattr(again, t) for t in TRAITS]
    assert again == policy
    assert hash(again) == hash(policy)


def test_only_fields_can_be_settled() -> None:
    policy = policies.get("fifo")
    with pytest.raises(AttributeError, match="Fifo has no field 'needs' to settle"):
        settle(policy, needs=frozenset({Need.KEYS}))
    assert policy.needs == frozenset()


def test_names_are_those_of_files_and_table() -> None:
    for name in registry.BUILTIN:
        assert registry.policy_class(name).name == name
    assert Wrapped.name == ""


# --- third parties ---------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Old(Policy):
    """Written as policies were: annotated class attributes."""

    strict: bool = True

    name: ClassVar[str] = "old_way"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.KEYS})
    per_head: ClassVar[bool] = True

    def score(self, view: LayerView) -> Scores:
        return Scores(torch.zeros(view.ids.shape))


@dataclass(frozen=True, kw_only=True)
class More(Hermes):
    """Takes a built-in policy further, by its class."""

    name: ClassVar[str] = "more"
    needs: ClassVar[frozenset[Need]] = Hermes.needs | {Need.QUERIES}


@dataclass(frozen=True, kw_only=True)
class Choosing(Old):
    """An annotated attribute that follows from a field."""

    name: ClassVar[str] = "choosing"
    needs: ClassVar[frozenset[Need]] = computed(
        lambda policy: frozenset({Need.VALUES} if policy.strict else ())
    )


@dataclass(frozen=True, kw_only=True)
class ByHand(Old):
    """Sets on the instance what follows from a field, as built-in policies once did."""

    name: ClassVar[str] = "by_hand"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.strict:
            object.__setattr__(self, "needs", frozenset({Need.FEATURES}))


@dataclass(frozen=True, kw_only=True)
class Broken(Old):
    """Cannot be made."""

    name: ClassVar[str] = "broken"

    def __post_init__(self) -> None:
        raise ZeroDivisionError


class Plain(Choosing):
    """Without a decorator, since it has no fields."""

    name = "plain"


def test_policies_of_third_parties_hold() -> None:
    assert Old.needs == Old().needs == {Need.KEYS}
    assert More.needs == More().needs == Hermes.needs | {Need.QUERIES}
    for cls in (Choosing, Plain):
        assert cls.needs == cls().needs == {Need.VALUES}
        assert cls(strict=False).needs == frozenset()
    for cls in (Old, More, Choosing, Plain):
        try:
            registry.register(cls)
            assert policies.info(cls.name).needs == cls.needs
            assert policies.get(f"instant(inner={cls.name})").needs == cls.needs
        finally:
            registry.unregister(cls.name)


def test_a_listing_reads_what_the_engine_would() -> None:
    try:
        registry.register(ByHand)
        registry.register(Broken)
        assert policies.info("by_hand").needs == policies.get("by_hand").needs == {Need.FEATURES}
        assert policies.info("by_hand(strict=False)").needs == {Need.KEYS}
        assert policies.info("broken").needs == {Need.KEYS}
    finally:
        registry.unregister("by_hand")
        registry.unregister("broken")


def test_a_class_of_another_package_needs_a_name_of_its_own() -> None:
    class Nameless(Policy):
        def score(self, view: LayerView) -> Scores:
            return Scores(torch.zeros(view.ids.shape))

    assert Nameless.name == ""


# --- one of each -----------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hermes_and_with_summary_fold_alike(axes: int, seed: int, dtype: torch.dtype) -> None:
    view = layer_view(layer=9, layers=10, frames=5, dim=12, axes=axes, seed=seed)
    assert view.keys is not None
    assert view.values is not None
    view = replace(view, keys=view.keys.to(dtype), values=view.values.to(dtype))
    kept = torch.randperm(view.tokens, generator=torch.Generator().manual_seed(seed))[:7]
    kept, scores = kept.sort().values[None], Scores(torch.zeros(view.ids.shape))
    own = Hermes().merge(view, kept, scores)
    other = WithSummary(inner="fifo").merge(view, kept, scores)
    assert own is not None
    assert other is not None
    # rotated as cached there, in fp32 here: one rounding apart where the cache is in bf16
    apart = 0.0 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(own.keys.float(), other.keys.float(), rtol=0, atol=apart)
    assert own.keys.dtype == other.keys.dtype == dtype
    assert torch.equal(own.values, other.values)
    assert torch.equal(own.positions, other.positions)
    assert own.sources[0].tolist() == other.sources[0].tolist()
    everything = torch.arange(view.tokens)[None]
    for policy in (Hermes(), WithSummary(inner="fifo")):
        assert policy.merge(view, everything, scores) is None


def test_what_a_summary_is_made_of() -> None:
    view = layer_view(frames=3, per_head=True)
    kept = torch.tensor([[0, 2, 5], [1, 2, 11]])
    assert evicted(view, kept).tolist() == [
        [i for i in range(view.tokens) if i not in row] for row in kept.tolist()
    ]
    assert behind_kept(view, kept).tolist() == (view.positions[1, :, 11] + 1).tolist()
    assert behind_kept(view, kept[:, :0]).tolist() == [0]


def test_whole_numbers_share_out_a_total() -> None:
    assert whole([1.5, 1.5, 2.0], 5) == [2, 1, 2]
    assert whole([1.5, 1.5, 2.0], 5, ties="deep") == [1, 2, 2]
    assert whole([0.2, 1.9, 2.9], 5, ties="deep") == whole([0.2, 1.9, 2.9], 5) == [0, 2, 3]
    # where layers tie, HERMES rounds the deepest up first, the wrappers the first ones
    halves = Hermes(budget_tokens=3, budget_weights=(1.0, 1.0, 3.0), deep_from=2)
    assert halves.budgets(4) == [1, 1, 5, 5]
    assert whole([1.5, 1.5, 4.5, 4.5], 12) == [2, 2, 4, 4]


@pytest.mark.parametrize("layers", range(1, 65))
def test_bands_have_one_rule(layers: int) -> None:
    expected = tuple(BANDS[band_of(layer, layers)] for layer in range(layers))
    assert Hermes().bands_of(layers) == expected
    assert edges_of(layers) == (layers // 10, layers * 7 // 10)


def test_the_budget_of_a_view() -> None:
    view = layer_view(frames=3)
    assert view.budget(None) == view.tokens
    assert view.budget(7) == 7
    assert replace(view, budget_tokens=5).budget(7) == 5
    assert replace(view, budget_tokens=0).budget(7) == 0
