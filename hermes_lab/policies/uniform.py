"""Even coverage of everything seen so far, decided online.

The rule. Every frame (or token) number n has a fixed rank: first the exponent of the largest power of two that
divides n, then, among numbers with the same exponent, the fractional part of (odd part of n // 2) times the golden
ratio, which scatters evenly. The best ranked are kept. Because ranks never change, what is kept after any number
of compressions is exactly what one compression of the whole stream would have kept, whatever the chunks were; and
the gaps between kept numbers are some power of two or twice that, interspersed (where a model merges frames in
pairs, so that only every other number exists, the scatter alone spaces them). The newest frame (or token) is
always kept beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.policies.base import LayerView, Policy, Scores, setting, top_newest

GOLDEN = (5**0.5 - 1) / 2
NEWEST = 64.0  # above every exponent of a 63-bit number


@dataclass(frozen=True, kw_only=True)
class Uniform(Policy):
    """Keep frames or tokens evenly spaced over the whole stream so far. Source: baseline."""

    by: Literal["frame", "token"] = setting(
        "frame", "What is spaced evenly: whole frames (as many as fit), or single tokens."
    )

    title = "evenly spaced frames or tokens"
    source = "baseline"
    granularity = "frame or token"

    def score(self, view: LayerView) -> Scores:
        """The fixed rank of each token's frame, or of the token itself."""
        if self.by == "token":
            rank = even_rank(view.ids)
            rank[:, -1] = NEWEST
        else:
            frame = view.filled_frame
            rank = even_rank(frame)
            rank[frame == frame[:, -1:]] = NEWEST
        return Scores(rank, {"evenness": rank})

    def select(self, scores: Scores, count: int, view: LayerView) -> Int[Tensor, "head kept"]:
        """The best ranked; by frame, whole frames in order of rank until the next does not fit."""
        if self.by == "token" or count >= view.tokens:
            return top_newest(scores.total, count)
        frame, rank = view.filled_frame[0], scores.total[0]  # all heads hold the same frames
        numbers, inverse, sizes = frame.unique(return_inverse=True, return_counts=True)
        best = torch.empty(len(numbers), device=rank.device).scatter_(0, inverse, rank)
        order = best.flip(0).sort(descending=True, stable=True).indices
        order = len(numbers) - 1 - order
        fits = sizes[order].cumsum(0) <= count
        if not bool(fits[0]):  # not even the newest frame fits: its newest tokens
            return top_newest(scores.total, count)
        kept = torch.isin(frame, numbers[order[fits]]).nonzero()[:, 0]
        return kept.expand(view.ids.shape[0], -1)


def even_rank(number: Int[Tensor, "head token"]) -> Float[Tensor, "head token"]:
    """The fixed rank of the module docstring; zero, which every power divides, ranks as 2**62."""
    number = number.long()
    lowest = torch.where(number == 0, torch.tensor(2**62, device=number.device), number & -number)
    odd = number // lowest
    scatter = ((odd // 2).double() * GOLDEN).frac()
    return (lowest.double().log2() + scatter).float()
