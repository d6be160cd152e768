"""Policies made of one other policy: the base, and the wrappers that change one thing about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Literal, cast

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
    computed,
    setting,
    settle,
)
from hermes_lab.policies.parts.scoring import band_of, keys_of, values_of, whole
from hermes_lab.policies.parts.summary import behind_kept, evicted, folded


def resolve(part: Policy | str) -> Policy:
    """A part given as a policy or as a line of text (see `registry.get`)."""
    return registry.get(part) if isinstance(part, str) else part


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

    name = ""
    needs = computed(attrgetter("part.needs"))
    per_head = computed(attrgetter("part.per_head"))
    archives = computed(attrgetter("part.archives"))
    recalls = computed(attrgetter("part.recalls"))
    default_positions = computed(attrgetter("part.default_positions"))
    evaluation_only = computed(attrgetter("part.evaluation_only"))
    attention_detail = computed(attrgetter("part.attention_detail"))
    granularity = computed(attrgetter("part.granularity"))

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = resolve(self.inner)
        if self.budget_tokens is not None:
            inner = replace(inner, budget_tokens=self.budget_tokens)
        settle(self, inner=inner, budget_tokens=inner.budget_tokens)

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
    """Any retention policy, with the last frames read again on the system prompt at each question.

    The instant cache of DSCache (arXiv 2605.01858) beside any other memory; the paper has it with a sliding cache,
    ReKV and InfiniPot-V.
    """

    recent_frames: int = setting(4, "Last frames that are read again (DSCache).", minimum=1)
    replaces: bool | None = setting(
        None,
        "Hide the cached tokens of those frames; None: yes, unless KV heads hold different tokens.",
    )

    name = "instant"
    title = "any policy, and the last frames read again"
    source = "DSCache (arXiv 2605.01858)"

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

    name = "with_budget"
    title = "any policy, budgets by weights"
    source = "HERMES (arXiv 2601.14724), Table 5"

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

    name = "with_summary"
    title = "any policy, evicted tokens folded into one"
    source = "HERMES (arXiv 2601.14724), Algorithm 1"
    needs = computed(
        lambda policy: policy.part.needs | {Need.KEYS, Need.VALUES},
        otherwise=frozenset({Need.KEYS, Need.VALUES}),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if makes_tokens(self.part):
            raise PolicyError(
                f"Policy {self.part.name!r} already makes tokens out of evicted ones; use it without 'with_summary'."
            )

    def reserve(self, layer: int, layers: int) -> int:
        """One slot where a summary is made."""
        return int(self.layers == "all" or band_of(layer, layers) == 2)

    def merge(
        self, view: LayerView, kept: Int[Tensor, "head kept"], scores: Scores
    ) -> Merged | None:
        """The summary token; each KV head folds its own evicted tokens."""
        if not self.reserve(view.layer, view.layers) or kept.shape[-1] == view.tokens:
            return None
        gone, at = evicted(view, kept), behind_kept(view, kept)
        return folded(view, gone, keys_of(view), values_of(view), at)


@dataclass(frozen=True, kw_only=True)
class WithPositions(Wrapped):
    """The same policy with another default position rule. Source: HERMES (arXiv 2601.14724), appendix E."""

    rule: Literal["keep", "lazy", "eager", "contiguous"] = setting(
        "lazy", "Position rule unless the session names one (see `hermes_lab.retention.positions`)."
    )

    name = "with_positions"
    title = "any policy, another position rule"
    source = "HERMES (arXiv 2601.14724), appendix E"
    default_positions = computed(attrgetter("rule"))


@dataclass(frozen=True, kw_only=True)
class SharedHeads(Wrapped):
    """The same policy with one token set for all KV heads of a layer: a per-head score is averaged. Source: baseline."""

    name = "shared_heads"
    title = "any policy, one token set for all heads"
    source = "baseline"
    per_head = False
