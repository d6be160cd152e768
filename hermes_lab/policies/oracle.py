"""Oracle: keep what the true future question attends to. An upper bound, not a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hermes_lab.policies.base import Guidance, LayerView, Need, Policy, Scores, setting
from hermes_lab.policies.parts.scoring import rows_of


@dataclass(frozen=True, kw_only=True)
class Oracle(Policy):
    """Keep the tokens that the question asked later attends to now, mean over heads and question tokens.

    It sees the future, so it is refused outside an evaluation; what a real policy loses against it is what
    not knowing the question costs. Source: the ablation of StreamMem (arXiv 2508.15717), true question as query.
    """

    reading: Literal["propagated", "raw_embedding"] = setting(
        "propagated", "How the question's queries are computed (see `Guidance.reading`)."
    )

    title = "attention of the future question (upper bound)"
    source = "StreamMem (arXiv 2508.15717), ablation of the query"
    needs = frozenset({Need.GUIDANCE})
    evaluation_only = True
    attention_detail = "mean"

    def guidance(self, history: Sequence[tuple[str, str]]) -> tuple[Guidance, ...]:
        """The question that will be asked."""
        return (Guidance(name="question", kind="question", reading=self.reading),)

    def score(self, view: LayerView) -> Scores:
        """Attention of the question."""
        attention = rows_of(view, "question").mean((0, 1))[None]
        return Scores(attention, {"attention": attention})
