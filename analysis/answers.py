"""How right an answer is, as a number that moves before the answer changes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from analysis.arrays import Array
from hermes_lab.lens import answer_ids
from hermes_lab.stream.session import StreamSession
from hermes_lab.worlds import TYPES, Question
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS, SCENES

LEAST_COST = 0.2
"""Logits: the smallest unit in which drops of a margin are given, so that a model that does not use the video does not
make every effect large."""
_WORDS: dict[str, tuple[str, ...]] = {
    "colour": (*COLOUR_NAMES, "none"),
    "kind": (*KINDS, "none"),
    "digit": tuple(map(str, range(10))),
    "scene": tuple(SCENES),
    "side": ("left", "right"),
    "direction": ("left", "right", "up", "down", "still"),
    "yes": ("yes", "no"),
}
_CLASS: dict[str, str] = {
    "now_count": "digit", "now_side": "side", "recent_direction": "direction", "long_ever": "yes",
    "long_count": "digit", "long_order": "kind", "long_together": "kind", "long_before": "kind",
    "long_first": "kind", "recent_appeared": "kind", "recent_left": "kind", "recent_changed": "kind",
}  # fmt: skip


def alternatives(question_type: str) -> tuple[str, ...]:
    """Every answer that a question of this type can have."""
    named = _CLASS.get(question_type)
    if named is None:  # the name says it: now_colour, long_counter_when, recent_scene, ...
        named = next(
            c for word, c in (("colour", "colour"), ("kind", "kind"), ("counter", "digit"), ("scene", "scene"))
            if word in question_type
        )  # fmt: skip
    return _WORDS[named]


assert set(_CLASS) <= set(TYPES)


@dataclass(frozen=True)
class Target:
    """First tokens of a question's answer and of its alternatives."""

    answer: int
    others: tuple[int, ...]

    @classmethod
    def of(cls, session: StreamSession, question: Question) -> Target:
        """The target of a question, alternatives that begin like the answer left out."""
        words = [w for w in alternatives(question.type) if w != question.answer]
        answer, *others = answer_ids(session, [question.answer, *words])
        return cls(answer, tuple(dict.fromkeys(o for o in others if o != answer)))

    def margin(self, logits: Float[Tensor, "... vocabulary"]) -> Array:
        """Logit of the answer minus the mean logit of its alternatives, [...]."""
        return _numpy(logits[..., self.answer] - logits[..., list(self.others)].mean(-1))

    def right(self, logits: Float[Tensor, "... vocabulary"]) -> Array:
        """1 where the answer's logit is above that of every alternative, [...]."""
        return _numpy(logits[..., self.answer] > logits[..., list(self.others)].amax(-1))


def divergence(base: Float[Tensor, " vocabulary"], changed: Float[Tensor, "n vocabulary"]) -> Array:
    """Kullback-Leibler divergence in nats of changed answer distributions from the base one, [n]."""
    p, q = base.log_softmax(-1), changed.log_softmax(-1)
    return _numpy((p.exp() * (p - q)).sum(-1))


def _numpy(values: Tensor) -> Array:
    return values.detach().to("cpu", torch.float64).numpy()
