"""Right and asked, per question type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hermes_lab.training.data import Batch
from hermes_lab.worlds import TYPES, horizon_of

_ROW = {k: i for i, k in enumerate(TYPES)}


@dataclass
class Tally:
    """How many questions of each type, in the order of `TYPES`, were asked and answered rightly."""

    right: Float[Tensor, " type"]
    asked: Float[Tensor, " type"]

    @classmethod
    def empty(cls) -> Tally:
        """Nothing asked yet."""
        return cls(torch.zeros(len(TYPES)), torch.zeros(len(TYPES)))

    def count(self, drawn: Batch, right: Bool[Tensor, " label"]) -> None:
        """Credit each question with its answer word (a label after it, the turn's end, is not counted)."""
        at = 0
        for group, per_stream in zip(drawn.groups, drawn.questions, strict=True):
            for stream, questions in enumerate(per_stream):
                before = -1
                for owner in group.question[stream][group.labels[stream] != -100].tolist():
                    if owner != before:
                        row = _ROW[questions[owner].type]
                        self.right[row] += float(right[at])
                        self.asked[row] += 1
                    before = owner
                    at += 1

    def by_type(self) -> dict[str, float]:
        """Accuracy of every type that was asked."""
        rows = zip(TYPES, self.right, self.asked, strict=True)
        return {k: float(r / n) for k, r, n in rows if n > 0}

    def by_horizon(self) -> dict[str, float]:
        """Accuracy of every horizon that was asked."""
        found: dict[str, float] = {}
        for horizon in ("now", "recent", "long"):
            rows = [i for i, k in enumerate(TYPES) if horizon_of(k) == horizon]
            asked = float(self.asked[rows].sum())
            if asked:
                found[horizon] = float(self.right[rows].sum()) / asked
        return found

    def said(self) -> dict[str, Any]:
        """Both, as a line of progress has them."""
        types = {k: round(v, 3) for k, v in self.by_type().items()}
        return {"accuracy": self.by_horizon(), "types": types}
