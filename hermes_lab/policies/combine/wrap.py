"""Policies made of one other policy: the base, and the wrappers that change one thing about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies import registry
from hermes_lab.policies.base import (
    Admission,
    Arrival,
    Codec,
    Guidance,
    LayerView,
    Merged,
    Need,
    Policy,
    ReadPlan,
    RecallView,
    Scores,
    setting,
)
from hermes_lab.policies.parts.scoring import band_of, keys_of, values_of, whole

TRAITS = (
    "needs", "per_head", "archives", "recalls", "default_positions", "evaluation_only",
    "attention_detail", "granularity",
)  # fmt: skip


def resolve(part: Policy | str) -> Policy:
    """A part given as a policy or as a line of text (see `registry.get`)."""
    return registry.get(part) if isinstance(part, str) else part


def set_traits(policy: Policy, **traits: Any) -> None:
    """Class attributes of one instance: what the engine reads off a policy made of others."""
    for name, value in traits.items():
        object.__setattr__(policy, name, value)


def with_budgets(value: Any, budget_tokens: int, layers: int) -> Any:
    """A field's value, with `Policy.bounded` applied to every policy in it."""
    if isinstance(value, Policy):
        return value.bounded(budget_tokens, layers)
    if isinstance(value, tuple):
        parts = cast("tuple[Any, ...]", value)
        return tuple(with_budgets(part, budget_tokens, layers) for part in parts)
    return value


def makes_tokens(policy: Policy) -> bool:
    """Whether a policy, or a part of it, merges evicted tokens into new ones."""
    parts = [getattr(policy, "inner", None), *getattr(policy, "parts", ())]
    known = [part for part in parts if isinstance(part, Policy)]
    if known:
        return any(makes_tokens(part) for part in known)
    if type(policy).merge is Policy.merge:
        return False
    try:
        return any(policy.reserve(layer, 10) for layer in range(10))
    except PolicyError:  # made for another depth
        return True


@dataclass(frozen=True, kw_only=True)
class Wrapped(Policy):
    """One policy that does as another does; subclasses change a step. Its budget is the other's unless given."""

    inner: Policy | str = field(
        metadata={"doc": "The policy to wrap, or its name: inner=h2o(budget_tokens=512)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = resolve(self.inner)
        if self.budget_tokens is not None:
            inner = replace(inner, budget_tokens=self.budget_tokens)
        set_traits(self, inner=inner, budget_tokens=inner.budget_tokens)
        set_traits(self, **{name: getattr(inner, name) for name in TRAITS})

    @property
    def part(self) -> Policy:
        """The wrapped policy."""
        assert isinstance(self.inner, Policy)  # resolved on construction
        return self.inner

    @property
    def window_queries(self) -> int | None:
        return self.part.window_queries

    def guidance(self, history: Sequence[tuple[str, str]]) -> tuple[Guidance, ...]:
        return self.part.guidance(history)

    def budgets(self, layers: int) -> list[int] | None:
        return self.part.budgets(layers)

    def bounded(self, budget_tokens: int, layers: int) -> Policy:
        inner = self.part.bounded(budget_tokens, layers)
        return self if inner is self.part else replace(self, inner=inner)

    def due(self, tokens: Sequence[int], budgets: Sequence[int]) -> bool:
        return self.part.due(tokens, budgets)

    def observe(self, view: LayerView) -> Mapping[str, Float[Tensor, "head token"]]:
        return self.part.observe(view)

    def score(self, view: LayerView) -> Scores | Float[Tensor, "head token"]:
        return self.part.score(view)

    def mix(self, scores: list[Scores], views: Sequence[LayerView]) -> list[Scores]:
        return self.part.mix(scores, views)

    def adapt_budgets(
        self, budgets: list[int], scores: Sequence[Scores], views: Sequence[LayerView]
    ) -> list[int]:
        return self.part.adapt_budgets(budgets, scores, views)

    def reserve(self, layer: int, layers: int) -> int:
        return self.part.reserve(layer, layers)

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        return self.part.select(scores, count, view)

    def merge(
        self, view: LayerView, kept: Int[Tensor, "head kept"], scores: Scores
    ) -> Merged | None:
        return self.part.merge(view, kept, scores)

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        return self.part.admit(arrival, memory)

    def read_plan(self) -> ReadPlan:
        return self.part.read_plan()

    def recall(self, question: RecallView) -> Int[Tensor, "head recalled"] | None:
        return self.part.recall(question)

    def codec(self) -> Codec | None:
        return self.part.codec()


@dataclass(frozen=True, kw_only=True)
class Instant(Wrapped):
    """Any retention policy, with the last frames read afresh on the system prompt at each question.

    The instant cache of DSCache (arXiv 2605.01858) beside any other memory; the paper has it with a sliding cache,
    ReKV and InfiniPot-V.
    """

    recent_frames: int = setting(4, "Last frames that are read afresh (DSCache).", minimum=1)
    replaces: bool | None = setting(
        None,
        "Hide the cached tokens of those frames; None: yes, unless KV heads hold different tokens.",
    )

    name: ClassVar[str] = "instant"
    title: ClassVar[str] = "any policy, and the last frames read afresh"
    source: ClassVar[str] = "DSCache (arXiv 2605.01858)"

    def read_plan(self) -> ReadPlan:
        """The inner policy's memory, and then the last frames."""
        hide = not self.per_head if self.replaces is None else self.replaces
        return replace(self.part.read_plan(), recent_frames=self.recent_frames, replaces=hide)


@dataclass(frozen=True, kw_only=True)
class WithBudget(Wrapped):
    """The same policy with its total budget shared out by weights. Source: HERMES (arXiv 2601.14724), Table 5."""

    weights: tuple[float, ...] = setting(
        (0.7, 1.0, 1.3),
        "Weights of shallow, middle and deep layers (the best of HERMES' Table 5), or one for each layer.",
        minimum=0.0,
    )
    by: Literal["band", "layer"] = setting("band", "What a weight belongs to.")

    name: ClassVar[str] = "with_budget"
    title: ClassVar[str] = "any policy, budgets by weights"
    source: ClassVar[str] = "HERMES (arXiv 2601.14724), Table 5"

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(self.weights) <= 0 or (self.by == "band" and len(self.weights) != 3):
            raise PolicyError(
                "The weights of 'with_budget' must be three numbers (shallow, middle, deep) or, with by=layer, one for "
                f"each layer, and not all zero; got {self.weights!r}."
            )

    def budgets(self, layers: int) -> list[int] | None:
        """The inner policy's budgets times the weights, at the same total, at least one token each.

        Raises:
            PolicyError: there is not one weight for each layer of the model.
        """
        inner = self.part.budgets(layers)
        if inner is None:
            return None
        if self.by == "layer" and len(self.weights) != layers:
            raise PolicyError(
                f"Policy 'with_budget' has {len(self.weights)} weights, but the model has {layers} layers."
            )
        weights = [
            self.weights[layer if self.by == "layer" else band_of(layer, layers)]
            for layer in range(layers)
        ]
        total = sum(b * w for b, w in zip(inner, weights, strict=True))
        if total == 0:
            raise PolicyError(
                "The weights of 'with_budget' are zero for every layer of this model."
            )
        spare = sum(inner) - layers
        shares = [spare * b * w / total for b, w in zip(inner, weights, strict=True)]
        return [1 + share for share in whole(shares, spare)]


@dataclass(frozen=True, kw_only=True)
class WithSummary(Wrapped):
    """The same policy, with what it evicts folded into one summary token. Source: HERMES (arXiv 2601.14724), Algorithm 1.

    The value is the mean of the evicted values; the key the mean of the evicted keys, each first rotated to the place of
    the summary, one position behind the last kept token. The token takes one place of the budget.
    """

    layers: Literal["deep", "all"] = setting(
        "deep", "Which layers make one (HERMES: the deep ones)."
    )

    name: ClassVar[str] = "with_summary"
    title: ClassVar[str] = "any policy, evicted tokens folded into one"
    source: ClassVar[str] = "HERMES (arXiv 2601.14724), Algorithm 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if makes_tokens(self.part):
            raise PolicyError(
                f"Policy {self.part.name!r} already makes tokens out of evicted ones; use it without 'with_summary'."
            )
        set_traits(self, needs=self.needs | {Need.KEYS, Need.VALUES})

    def reserve(self, layer: int, layers: int) -> int:
        """One slot where a summary is made."""
        return int(self.layers == "all" or band_of(layer, layers) == 2)

    def merge(
        self, view: LayerView, kept: Int[Tensor, "head kept"], scores: Scores
    ) -> Merged | None:
        """The summary token; each KV head folds its own evicted tokens."""
        if not self.reserve(view.layer, view.layers) or view.rotate is None:
            return None
        heads = view.ids.shape[0]
        stays = torch.zeros(heads, view.tokens, dtype=torch.bool, device=view.ids.device)
        stays.scatter_(1, kept.expand(heads, -1), True)
        evicted = (~stays).nonzero()[:, 1].reshape(heads, -1)
        last = view.positions.masked_fill(~stays[:, None], -1).amax((0, 2)) + 1
        kv_heads, dim = view.kv_heads, keys_of(view).shape[-1]
        index = evicted.expand(kv_heads, -1)[..., None].expand(-1, -1, dim)
        axes = view.positions.shape[1]
        old = view.positions.gather(2, evicted[:, None].expand(-1, axes, -1))
        keys = keys_of(view).gather(1, index)
        turned = view.rotate(keys, old, last[None, :, None].expand(*old.shape[:2], 1))
        values = values_of(view).gather(1, index)
        assert view.keys is not None and view.values is not None
        return Merged(
            keys=turned.mean(1, keepdim=True).to(view.keys.dtype),
            values=values.mean(1, keepdim=True).to(view.values.dtype),
            positions=last[:, None],
            sources=(view.ids.gather(1, evicted).unique(),),
        )


@dataclass(frozen=True, kw_only=True)
class WithPositions(Wrapped):
    """The same policy with another default position rule. Source: HERMES (arXiv 2601.14724), appendix E."""

    rule: Literal["keep", "lazy", "eager", "contiguous"] = setting(
        "lazy", "Position rule unless the session names one (see `hermes_lab.retention.positions`)."
    )

    name: ClassVar[str] = "with_positions"
    title: ClassVar[str] = "any policy, another position rule"
    source: ClassVar[str] = "HERMES (arXiv 2601.14724), appendix E"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_traits(self, default_positions=self.rule)


@dataclass(frozen=True, kw_only=True)
class SharedHeads(Wrapped):
    """The same policy with one token set for all KV heads of a layer: a per-head score is averaged. Source: baseline."""

    name: ClassVar[str] = "shared_heads"
    title: ClassVar[str] = "any policy, one token set for all heads"
    source: ClassVar[str] = "baseline"

    def __post_init__(self) -> None:
        super().__post_init__()
        set_traits(self, per_head=False)
