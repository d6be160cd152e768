"""The best answer that needs no eyes: per question type, what always saying one thing would score.

The table is computed once on development worlds and stored beside this file; for the types that name both
candidates in the question, the constant strategy is to repeat the one named first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from hermes_lab.worlds.questions import TYPES, Question

TABLE = Path(__file__).with_name("majority.json")
NAMED_FIRST = "(the one named first)"
_CHOICE_TYPES = frozenset({"long_order", "long_scene_order"})


@dataclass(frozen=True)
class Baseline:
    """A constant strategy and the share of questions of its type that it gets right."""

    answer: str
    share: float


@cache
def _table() -> dict[str, Baseline]:
    return {k: Baseline(**v) for k, v in json.loads(TABLE.read_text())["types"].items()}


def baseline(type_: str) -> Baseline:
    """The best constant strategy of a question type."""
    return _table()[type_]


def measure(questions: Iterable[Question]) -> dict[str, Baseline]:
    """Best constant strategy per type over the given questions."""
    answers: dict[str, Counter[str]] = {}
    for question in questions:
        counter = answers.setdefault(question.type, Counter())
        if question.type in _CHOICE_TYPES:
            words = question.text.split()
            named_first = words[words.index("or") - 1]
            counter[NAMED_FIRST] += question.answer == named_first
            counter["(the other)"] += question.answer != named_first
        else:
            counter[question.answer] += 1
    best = {k: (c.most_common(1)[0], c.total()) for k, c in answers.items()}
    return {k: Baseline(best[k][0][0], best[k][0][1] / best[k][1]) for k in TYPES if k in best}


def rebuild(worlds: int = 400, frames: int = 128) -> None:
    """Recompute the stored table from development worlds, 96 questions each."""
    from hermes_lab.worlds.seeds import DEV_SEEDS
    from hermes_lab.worlds.world import World

    every = dict.fromkeys(TYPES, 1.0)
    found: list[Question] = []
    for seed in DEV_SEEDS[:worlds]:
        times = np.random.default_rng([seed, 3]).integers(4, frames, 96).tolist()
        found += World.generate(seed, frames).questions(seed, times, weights=every)
    types = {k: {"answer": b.answer, "share": round(b.share, 4)} for k, b in measure(found).items()}
    body = {"worlds": worlds, "frames": frames, "questions": len(found), "types": types}
    TABLE.write_text(json.dumps(body, indent=1) + "\n")
