"""Otsu's threshold: where a histogram splits best in two."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def otsu(values: Float[Tensor, " value"], *, bins: int = 128, high: float = 2.0) -> float | None:
    """The bin centre that maximises the variance between the values below and above it; None if nothing splits.

    Args:
        bins, high: histogram over [0, high]; 128 bins on [0, 2] as in FluxMem's code, since 1 - cosine lies there.
    """
    if values.numel() == 0:
        return None
    counts = torch.histc(values.float().clamp(0, high).cpu(), bins=bins, min=0, max=high).double()
    share = counts / counts.sum()
    centres = (torch.arange(bins, dtype=torch.float64) + 0.5) * high / bins
    below = share.cumsum(0)
    mean_below = (share * centres).cumsum(0)
    between = (mean_below[-1] * below - mean_below) ** 2 / (below * (1 - below)).clamp_min(1e-12)
    between[(below < 1e-6) | (below > 1 - 1e-6)] = -1
    best = int(between.argmax())
    return float(centres[best]) if float(between[best]) > 0 else None


def otsu_or_median(values: Float[Tensor, " value"]) -> float:
    """Otsu's threshold, or the lower median where nothing splits."""
    found = otsu(values)
    return float(values.float().median()) if found is None else found
