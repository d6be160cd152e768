"""A seeded random sample of everything seen so far: what a policy must beat to have learnt anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.policies.base import LayerView, Policy, Scores, setting


@dataclass(frozen=True, kw_only=True)
class Random(Policy):
    """Keep a uniform random sample of the whole stream so far (priority sampling). Source: baseline.

    Each token has one fixed random priority and the highest are kept, so that after any number of
    compressions every token of the stream is as likely to be there as any other.
    """

    seed: int = setting(0, "Seed of the priorities; another seed is another sample.", minimum=0)
    shared: bool = setting(False, "Keep the same sample in all layers, instead of one per layer.")

    title = "random sample of the stream"
    source = "baseline"

    def score(self, view: LayerView) -> Scores:
        """The priority of each token, from seed, layer and token id alone."""
        priority = priorities(view.ids, self.seed, 0 if self.shared else view.layer + 1)
        return Scores(priority, {"priority": priority})


def priorities(
    ids: Int[Tensor, "head token"], seed: int, stream: int
) -> Float[Tensor, "head token"]:
    """Uniform numbers in [0, 1) by hashing (seed, stream, id); 24 bits, exact in float32."""
    mixed = torch.full_like(ids, seed, dtype=torch.int64)
    mixed = _scramble(mixed) ^ stream
    mixed = _scramble(mixed) ^ ids.long()
    return (_scramble(mixed) & 0xFFFFFF).float() / 2**24


def _scramble(x: Int[Tensor, "head token"]) -> Int[Tensor, "head token"]:
    """A bijective 64-bit finaliser (xor-shift and odd multiplications, wrapping around)."""
    x = x + 0x1E3779B97F4A7C15
    for shift, factor in ((30, 0x3F58476D1CE4E5B9), (27, 0x14D049BB133111EB)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return x ^ ((x >> 31) & ((1 << 33) - 1))
