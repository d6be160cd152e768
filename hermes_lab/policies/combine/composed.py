"""Several policies in turn: each chooses among what the one before it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import (
    LayerView,
    Merged,
    Policy,
    RecallView,
    Scores,
    computed,
    settle,
    top_newest,
)
from hermes_lab.policies.combine.several import Several, narrow
from hermes_lab.policies.combine.wrap import resolve


@dataclass(frozen=True, kw_only=True)
class Composed(Several):
    """Chain policies as kvpress' ComposedPress does: stage by stage, the last one to the budget of the whole.

    Every earlier stage keeps its own budget (or share: see its fields); the last stage's budget, or `budget_tokens`, is
    what the layer ends with, and its merging, budgets by layer and recall are used. Source: kvpress (Apache-2.0).
    """

    parts: tuple[Policy | str, ...] = field(
        metadata={
            "doc": 'Stages, first to last: parts=("knorm(budget_tokens=96)", "h2o(budget_tokens=64)").'
        }
    )

    title = "policies in turn, each among what is left"
    source = "kvpress ComposedPress"
    recalls = computed(attrgetter("last.recalls"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.parts) < 2:
            raise PolicyError(f"Policy 'composed' needs two stages or more, got {len(self.parts)}.")
        stages = [resolve(part) for part in self.parts]
        if self.budget_tokens is not None:
            stages[-1] = replace(stages[-1], budget_tokens=self.budget_tokens)
        for stage in stages[:-1]:
            if stage.budget_tokens is None:
                raise PolicyError(
                    f"Stage {stage.name!r} of policy 'composed' needs a budget of its own: {stage.name}(budget_tokens=...)."
                )
        settle(self, parts=tuple(stages), budget_tokens=stages[-1].budget_tokens)
        self.check_parts()

    def given(self) -> tuple[Policy | str, ...]:
        """The stages."""
        return self.parts

    @property
    def last(self) -> Policy:
        """The last stage."""
        return resolve(self.parts[-1])

    def budgets(self, layers: int) -> list[int] | None:
        """Those of the last stage."""
        return self.last.budgets(layers)

    def bounded(self, budget_tokens: int, layers: int) -> Policy:
        """The last stage gets that budget if it has no limit; the others have their own.

        Raises:
            PolicyError: the last stage keeps everything, and with it no stage would ever be asked.
        """
        bounded = super().bounded(budget_tokens, layers)
        if bounded.budgets(layers) is None:
            raise PolicyError(
                f"The last stage of 'composed' is {self.last.name!r}, which keeps everything, so that no stage would ever "
                "decide; end with a policy that evicts."
            )
        return bounded

    def due(self, tokens: Sequence[int], budgets: Sequence[int]) -> bool:
        """As the last stage says."""
        return self.last.due(tokens, budgets)

    def observe(self, view: LayerView) -> Mapping[str, Float[Tensor, "head token"]]:
        """The state of every stage."""
        state: dict[str, Tensor] = {}
        for part in self.all_parts:
            state |= self.named(part.observe(self.shown(view, part)), part, view.ids.shape[0])
        return state

    def score(self, view: LayerView) -> Scores:
        """The last stage's score of what reaches it; tokens that fell earlier stand below, later falls above earlier.

        The term "stage" says how many stages a token passed; the last stage's terms are NaN for tokens it did not see.
        """
        heads, tokens = view.ids.shape
        left = torch.arange(tokens, device=view.ids.device).expand(heads, tokens)
        passed = torch.zeros(heads, tokens, device=view.ids.device)
        for part in self.parts[:-1]:
            stage = resolve(part)
            seen = self.shown(narrow(view, left), stage)
            kept = self._kept(stage, seen).expand(heads, -1)
            left = left.gather(1, kept)
            passed.scatter_add_(1, left, torch.ones_like(left, dtype=passed.dtype))
        seen = self.shown(narrow(view, left), self.last)
        final = _scores(self.last.score(seen))
        own = final.total.float().expand(heads, -1)
        floor = own.min() - len(self.parts) if own.numel() else own.new_zeros(())
        total = (floor + passed).scatter(1, left, own)
        terms = {"stage": passed}
        for name, value in final.terms.items():
            blank = torch.full_like(passed, torch.nan)
            terms[name] = blank.scatter(1, left, value.float().expand(heads, -1))
        return Scores(total, terms)

    def mix(self, scores: list[Scores], views: Sequence[LayerView]) -> list[Scores]:
        """The last stage's mixing of what reached it."""
        if type(self.last).mix is Policy.mix:
            return scores
        left = [self._left(s) for s in scores]
        seen = [self.shown(narrow(v, i), self.last) for v, i in zip(views, left, strict=True)]
        own = [_gathered(s, i, v) for s, i, v in zip(scores, left, seen, strict=True)]
        mixed = self.last.mix(own, seen)
        answers: list[Scores] = []
        for before, after, index in zip(scores, mixed, left, strict=True):
            heads = before.total.shape[0]
            value = after.total.float().expand(heads, -1)
            shift = (value.min() - before.total.gather(1, index).min()).clamp(max=0)
            total = (before.total + shift).scatter(1, index, value)
            answers.append(replace(before, total=total))
        return answers

    def adapt_budgets(
        self, budgets: list[int], scores: Sequence[Scores], views: Sequence[LayerView]
    ) -> list[int]:
        """As the last stage does, from what reached it."""
        left = [self._left(s) for s in scores]
        seen = [self.shown(narrow(v, i), self.last) for v, i in zip(views, left, strict=True)]
        own = [_gathered(s, i, v) for s, i, v in zip(scores, left, seen, strict=True)]
        return self.last.adapt_budgets(budgets, own, seen)

    def reserve(self, layer: int, layers: int) -> int:
        """As the last stage does."""
        return self.last.reserve(layer, layers)

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """The last stage's choice among what reached it; everything while it fits."""
        if count >= view.tokens:
            return top_newest(scores.total, count)
        left = self._left(scores)
        seen = self.shown(narrow(view, left), self.last)
        kept = self.last.select(_gathered(scores, left, seen), count, seen)
        return left.gather(1, kept.expand(left.shape[0], -1))

    def merge(
        self, view: LayerView, kept: Int[Tensor, "head kept"], scores: Scores
    ) -> Merged | None:
        """As the last stage does, over all that was evicted by any stage."""
        seen = self.shown(view, self.last)
        heads = seen.ids.shape[0]
        terms = {name: value[:heads] for name, value in scores.terms.items()}
        return self.last.merge(seen, kept[:heads], Scores(scores.total[:heads], terms))

    def recall(self, question: RecallView) -> Int[Tensor, "head recalled"] | None:
        """As the last stage does."""
        return self.last.recall(replace(question, view=self.shown(question.view, self.last)))

    def _kept(self, stage: Policy, view: LayerView) -> Int[Tensor, "head kept"]:
        budgets = stage.budgets(view.layers)
        count = view.tokens if budgets is None else min(budgets[view.layer], view.tokens)
        narrowed = replace(view, budget_tokens=count)
        return stage.select(_scores(stage.score(narrowed)), count, narrowed)

    def _left(self, scores: Scores) -> Int[Tensor, "head left"]:
        """Tokens that reached the last stage."""
        reached = scores.terms["stage"] == len(self.parts) - 1
        return reached.nonzero()[:, 1].reshape(reached.shape[0], -1)


def _scores(raw: Scores | Tensor) -> Scores:
    return raw if isinstance(raw, Scores) else Scores(raw)


def _gathered(scores: Scores, index: Int[Tensor, "head left"], view: LayerView) -> Scores:
    """Scores of what reached the last stage, in as many rows as it sees token sets."""
    heads = view.ids.shape[0]
    terms = {name: value.gather(1, index)[:heads] for name, value in scores.terms.items()}
    return Scores(scores.total.gather(1, index)[:heads], terms)
