"""Policies made of several others: what all of them share, and a different policy by layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import (
    UNBOUNDED,
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
    settle,
)
from hermes_lab.policies.combine.wrap import resolve, with_budgets
from hermes_lab.policies.full import Full
from hermes_lab.policies.parts.scoring import band_of

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Several(Policy):
    """Base of policies with parts. Names of guidance, queries and carried state are kept apart part by part.

    A budget given to the whole goes to every part that has none of its own. At most one part may act before the
    decoder, and the parts may not read a question in different ways.
    """

    name = ""
    needs = computed(lambda policy: frozenset[Need]().union(*(p.needs for p in policy.all_parts)))
    per_head = computed(lambda policy: any(p.per_head for p in policy.all_parts))
    archives = computed(lambda policy: any(p.archives for p in policy.all_parts))
    recalls = computed(lambda policy: any(p.recalls for p in policy.all_parts))
    evaluation_only = computed(lambda policy: any(p.evaluation_only for p in policy.all_parts))
    default_positions = computed(lambda policy: policy.all_parts[0].default_positions)
    attention_detail = computed(lambda policy: _common_detail(policy.all_parts))

    def given(self) -> tuple[Policy | str, ...]:
        """The parts as they were given, in order."""
        raise NotImplementedError

    @property
    def all_parts(self) -> tuple[Policy, ...]:
        """The parts without repetitions; a part's number here is its prefix."""
        distinct = dict.fromkeys(resolve(part) for part in self.given())
        return tuple(distinct)

    def completed(self, part: Policy | str) -> Policy:
        """A part with the budget of the whole, where it has none; `full` stays without one."""
        policy = resolve(part)
        wants = policy.budget_tokens is None and not isinstance(policy, Full)
        if wants and self.budget_tokens is not None:
            return replace(policy, budget_tokens=self.budget_tokens)
        return policy

    def bounded(self, budget_tokens: int, layers: int) -> Policy:
        """Each part that has no limit of its own gets that budget."""
        before = {f.name: getattr(self, f.name) for f in fields(self)}
        after = {name: with_budgets(value, budget_tokens, layers) for name, value in before.items()}
        return self if after == before else replace(self, **after)

    def check_parts(self) -> None:
        """Refuse parts that cannot work together.

        Raises:
            PolicyError: two of them want to do what only one can.
        """
        parts = self.all_parts
        self._only("act before the decoder", [p for p in parts if _admits(p)])
        self._only("store the archive in different ways", {p.codec() for p in parts if p.archives})
        self._only(
            "read a question in different ways", {p.read_plan() for p in parts} - {ReadPlan()}
        )

    def _only(self, what: str, found: Sequence[Any] | set[Any]) -> None:
        if len(found) > 1:
            raise PolicyError(
                f"Policy {self.name!r} has {len(found)} parts that {what}; leave that to one of them."
            )

    # --- what to read ----------------------------------------------------------------------
    @property
    def window_queries(self) -> int | None:
        """The longest window of any part; None, the newest frame, if any part reads that."""
        readers = [p.window_queries for p in self.all_parts if Need.CHUNK_ATTENTION in p.needs]
        numbers = [window for window in readers if window is not None]
        return max(numbers) if numbers and len(numbers) == len(readers) else None

    def guidance(self, history: Sequence[tuple[str, str]]) -> tuple[Guidance, ...]:
        """The pseudo-queries of all parts, each under its part's number."""
        return tuple(
            replace(guidance, name=f"{number}/{guidance.name}")
            for number, part in enumerate(self.all_parts)
            for guidance in part.guidance(history)
        )

    # --- before the decoder and at the question ---------------------------------------------
    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """As the one part does that acts before the decoder."""
        for number, part in enumerate(self.all_parts):
            if _admits(part):
                found = part.admit(arrival, memory)
                if found is None:
                    return None
                terms = {f"{number}/{name}": value for name, value in found.terms.items()}
                return replace(found, terms=terms)
        return None

    def read_plan(self) -> ReadPlan:
        """As the parts do."""
        plans = {part.read_plan() for part in self.all_parts} - {ReadPlan()}
        return plans.pop() if plans else ReadPlan()

    def codec(self) -> Codec | None:
        """As the parts that archive do."""
        return next((part.codec() for part in self.all_parts if part.archives), None)

    # --- a part's share ----------------------------------------------------------------------
    def shown(self, view: LayerView, part: Policy) -> LayerView:
        """A view as one part alone would see it."""
        prefix = f"{self.all_parts.index(part)}/"
        attention = _own(view.attention, prefix)
        if "chunk" in view.attention:
            window = part.window_queries or view.tokens_per_frame
            attention["chunk"] = view.attention["chunk"][:, -window:]
        view = replace(
            view,
            attention=attention,
            queries=_own(view.queries, prefix),
            carried=_own(view.carried, prefix),
        )
        if view.ids.shape[0] == 1 or part.per_head:
            return view
        columns = ("ids", "positions", "frame", "row", "col", "role", "time_s")
        first = {name: getattr(view, name)[:1] for name in columns}
        return replace(view, **first, carried={n: v[:1] for n, v in view.carried.items()})

    def named(self, state: Mapping[str, Tensor], part: Policy, heads: int) -> dict[str, Tensor]:
        """A part's per-token state under its number, one row for each token set of the layer."""
        prefix = f"{self.all_parts.index(part)}/"
        return {prefix + name: value.expand(heads, -1) for name, value in state.items()}


@dataclass(frozen=True, kw_only=True)
class PerLayer(Several):
    """Base of policies that decide layer by layer with different parts.

    What a part does across layers it does as if it had the whole model (smoothing), or over its own layers (budgets).
    """

    name = ""

    @abstractmethod
    def part_of(self, layer: int, layers: int) -> Policy:
        """The part that decides a layer."""

    # --- the decision ----------------------------------------------------------------------
    def budgets(self, layers: int) -> list[int] | None:
        """Each layer's budget as its part gives it; UNBOUNDED for parts without one."""
        given = [self.part_of(layer, layers).budgets(layers) for layer in range(layers)]
        if all(budgets is None for budgets in given):
            return None
        return [UNBOUNDED if b is None else b[layer] for layer, b in enumerate(given)]

    def due(self, tokens: Sequence[int], budgets: Sequence[int]) -> bool:
        """Whether any part wants to decide, from its own layers."""
        for part, layers in self._shares(len(tokens)):
            if part.due([tokens[i] for i in layers], [budgets[i] for i in layers]):
                return True
        return False

    def observe(self, view: LayerView) -> Mapping[str, Float[Tensor, "head token"]]:
        """The state of the layer's part, and of parts that mix scores across the whole model."""
        state: dict[str, Tensor] = {}
        own = self.part_of(view.layer, view.layers)
        for part in self.all_parts:
            if part == own or _mixes(part):
                state |= self.named(part.observe(self.shown(view, part)), part, view.ids.shape[0])
        return state

    def score(self, view: LayerView) -> Scores:
        """As the layer's part scores it."""
        return self._scored(view, self.part_of(view.layer, view.layers))

    def mix(self, scores: list[Scores], views: Sequence[LayerView]) -> list[Scores]:
        """Each mixing part mixes as if it had scored every layer; its own layers take the result."""
        mixed = list(scores)
        for part, layers in self._shares(len(views)):
            if _mixes(part):
                whole = [
                    scores[i] if i in layers else self._scored(view, part)
                    for i, view in enumerate(views)
                ]
                answer = part.mix(whole, [self.shown(view, part) for view in views])
                for i in layers:
                    mixed[i] = _over_heads(answer[i], views[i].ids.shape[0])
        return mixed

    def adapt_budgets(
        self, budgets: list[int], scores: Sequence[Scores], views: Sequence[LayerView]
    ) -> list[int]:
        """Each part shares out the budgets of its own layers."""
        adapted = list(budgets)
        for part, layers in self._shares(len(views)):
            seen = [self.shown(views[i], part) for i in layers]
            narrow = [_for_part(scores[i], view) for i, view in zip(layers, seen, strict=True)]
            given = part.adapt_budgets([budgets[i] for i in layers], narrow, seen)
            for i, budget in zip(layers, given, strict=True):
                adapted[i] = budget
        return adapted

    def reserve(self, layer: int, layers: int) -> int:
        """As the layer's part does."""
        return self.part_of(layer, layers).reserve(layer, layers)

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """As the layer's part does."""
        part = self.part_of(view.layer, view.layers)
        seen = self.shown(view, part)
        return part.select(_for_part(scores, seen), count, seen).expand(view.ids.shape[0], -1)

    def merge(
        self, view: LayerView, kept: Int[Tensor, "head kept"], scores: Scores
    ) -> Merged | None:
        """As the layer's part does."""
        part = self.part_of(view.layer, view.layers)
        seen = self.shown(view, part)
        return part.merge(seen, kept[: seen.ids.shape[0]], _for_part(scores, seen))

    def recall(self, question: RecallView) -> Int[Tensor, "head recalled"] | None:
        """As the layer's part does."""
        view = question.view
        part = self.part_of(view.layer, view.layers)
        if not part.recalls:
            return None
        return part.recall(replace(question, view=self.shown(view, part)))

    def _scored(self, view: LayerView, part: Policy) -> Scores:
        raw = part.score(self.shown(view, part))
        return _over_heads(raw if isinstance(raw, Scores) else Scores(raw), view.ids.shape[0])

    def _shares(self, layers: int) -> list[tuple[Policy, list[int]]]:
        """Each part with its layers."""
        owner = [self.part_of(layer, layers) for layer in range(layers)]
        return [
            (part, own)
            for part in self.all_parts
            if (own := [layer for layer in range(layers) if owner[layer] == part])
        ]


@dataclass(frozen=True, kw_only=True)
class Banded(PerLayer):
    """One policy for shallow layers, one for middle ones, one for deep ones (HERMES' bands: a tenth, seven tenths)."""

    shallow: Policy | str = field(metadata={"doc": "Policy of the first tenth of the layers."})
    middle: Policy | str = field(metadata={"doc": "Policy of the layers between."})
    deep: Policy | str = field(metadata={"doc": "Policy of the last three tenths of the layers."})

    name = "banded"
    title = "a policy for each band of layers"
    source = "HERMES (arXiv 2601.14724), §3.1 (the bands)"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shallow", "middle", "deep"):
            settle(self, **{name: self.completed(getattr(self, name))})
        self.check_parts()

    def given(self) -> tuple[Policy | str, ...]:
        """Shallow, middle, deep."""
        return self.shallow, self.middle, self.deep

    def part_of(self, layer: int, layers: int) -> Policy:
        """The policy of the layer's band."""
        return resolve(self.given()[band_of(layer, layers)])


@dataclass(frozen=True, kw_only=True)
class Layered(PerLayer):
    """A policy for every single layer, by list."""

    parts: tuple[Policy | str, ...] = field(
        metadata={"doc": 'One policy per layer, as policies or names: parts=("h2o", "fifo").'}
    )

    name = "layered"
    title = "a policy for each layer, by list"
    source = "baseline"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.parts:
            raise PolicyError("Policy 'layered' needs one policy for each layer, got none.")
        settle(self, parts=tuple(self.completed(part) for part in self.parts))
        self.check_parts()

    def given(self) -> tuple[Policy | str, ...]:
        """The list."""
        return self.parts

    def part_of(self, layer: int, layers: int) -> Policy:
        """The layer's entry of the list.

        Raises:
            PolicyError: the list is not as long as the model is deep.
        """
        if len(self.parts) != layers:
            raise PolicyError(
                f"Policy 'layered' lists {len(self.parts)} policies, but the model has {layers} layers."
            )
        return resolve(self.parts[layer])


def _own(mapping: Mapping[str, T], prefix: str) -> dict[str, T]:
    return {n.removeprefix(prefix): value for n, value in mapping.items() if n.startswith(prefix)}


def _common_detail(parts: Sequence[Policy]) -> Literal["rows", "heads", "mean"]:
    """How much of the attention rows is kept: what all parts ask for of the same rows, else every row."""
    views = {(part.attention_detail, part.window_queries) for part in parts}
    return parts[0].attention_detail if len(views) == 1 else "rows"


def _admits(policy: Policy) -> bool:
    inner = getattr(policy, "inner", None)
    if isinstance(inner, Policy):
        return _admits(inner) or getattr(policy, "gate", None) is not None
    if isinstance(policy, Several):
        return any(_admits(part) for part in policy.all_parts)
    return type(policy).admit is not Policy.admit


def _mixes(policy: Policy) -> bool:
    inner = getattr(policy, "inner", None)
    if isinstance(inner, Policy):
        return _mixes(inner)
    if isinstance(policy, Several):
        return any(_mixes(part) for part in policy.all_parts)
    return type(policy).mix is not Policy.mix


def _over_heads(scores: Scores, heads: int) -> Scores:
    """Scores with one row for each token set of the layer."""
    terms = {name: value.expand(heads, -1) for name, value in scores.terms.items()}
    return Scores(scores.total.expand(heads, -1), terms)


def _for_part(scores: Scores, view: LayerView) -> Scores:
    """Scores as the part gave them, for a part that sees one token set."""
    heads = view.ids.shape[0]
    terms = {name: value[:heads] for name, value in scores.terms.items()}
    return Scores(scores.total[:heads], terms)


def narrow(view: LayerView, index: Int[Tensor, "head left"]) -> LayerView:
    """A view of some of its tokens, as if the others had been evicted; attention received is left out."""
    heads = view.ids.shape[0]
    index = index.expand(heads, -1)

    def by_set(values: Tensor) -> Tensor:
        return values.gather(1, index)

    def by_kv(values: Tensor) -> Tensor:
        rows = index.expand(values.shape[0], -1) if heads == 1 else index
        return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))

    def by_query(values: Tensor) -> Tensor:
        rows = index.repeat_interleave(values.shape[0] // heads, 0)
        return values.gather(2, rows[:, None].expand(-1, values.shape[1], -1))

    axes = view.positions.shape[1]
    columns = ("ids", "frame", "row", "col", "role", "time_s")
    return replace(
        view,
        **{name: by_set(getattr(view, name)) for name in columns},
        positions=view.positions.gather(2, index[:, None].expand(-1, axes, -1)),
        keys=None if view.keys is None else by_kv(view.keys),
        values=None if view.values is None else by_kv(view.values),
        attention={name: by_query(rows) for name, rows in view.attention.items()},
        received=None,
        received_queries=None,
        carried={name: by_set(state) for name, state in view.carried.items()},
    )
