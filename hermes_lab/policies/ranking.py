"""Orders of numbers that most policies need: the best, newest first on ties, and a common scale."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def top_newest(total: Float[Tensor, "head token"], count: int) -> Int[Tensor, "head kept"]:
    """Indices of the `count` largest values of each head in temporal order; ties go to the newer token."""
    tokens = total.shape[-1]
    if count >= tokens:
        return torch.arange(tokens, device=total.device).expand(total.shape[0], tokens)
    if count <= 0:
        return torch.empty(total.shape[0], 0, dtype=torch.long, device=total.device)
    least = total.kthvalue(tokens - count + 1, dim=-1, keepdim=True).values
    best = (total >= least).nonzero()[:, 1]
    if best.shape[0] > total.shape[0] * count:  # several share the least value: some must go
        above, equal = total > least, total == least
        room = count - above.sum(-1, keepdim=True)
        newest = equal.flip(-1).cumsum(-1).flip(-1) <= room
        best = (above | (equal & newest)).nonzero()[:, 1]
    return best.reshape(total.shape[0], count)


def minmax(values: Float[Tensor, "head token"], eps: float = 1e-6) -> Float[Tensor, "head token"]:
    """Scale each head's values to [0, 1]; `eps` is added to the range (HERMES' normalisation, §3.1)."""
    low, high = values.aminmax(dim=-1, keepdim=True)
    return (values - low) / (high - low + eps)
