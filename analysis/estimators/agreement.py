"""How far two scorings of the same tokens agree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from analysis.arrays import Array, Mask


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """Rank correlation along the last axis (ties share their mean rank); NaN where one side is constant."""
    ranks_a = stats.rankdata(np.asarray(a, dtype=float), axis=-1)
    ranks_b = stats.rankdata(np.asarray(b, dtype=float), axis=-1)
    return correlation(ranks_a, ranks_b)


def correlation(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    """Pearson correlation along the last axis; NaN where one side is constant."""
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    x = x - x.mean(-1, keepdims=True)
    y = y - y.mean(-1, keepdims=True)
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (x * y).sum(-1) / scale, np.nan)


def top_mask(scores: npt.ArrayLike, count: int) -> Mask:
    """Which entries of the last axis are among the `count` largest; ties go to the later one."""
    scores = np.asarray(scores, dtype=float)
    tokens = scores.shape[-1]
    later_first = np.argsort(-scores[..., ::-1], axis=-1, kind="stable")[..., :count]
    mask = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(mask, tokens - 1 - later_first, True, axis=-1)
    return mask


def top_overlap(a: npt.ArrayLike, b: npt.ArrayLike, count: int) -> Array:
    """Share of the `count` largest entries that both scorings choose; chance is count / entries."""
    both = top_mask(a, count) & top_mask(b, count)
    return both.sum(-1) / count


def jaccard(a: Mask, b: Mask) -> Array:
    """Intersection over union of two masks along the last axis; 1 where both are empty."""
    union = (a | b).sum(-1)
    return np.where(union > 0, (a & b).sum(-1) / np.maximum(union, 1), 1.0)


def chance_jaccard(count: int, entries: int) -> float:
    """Expected Jaccard overlap of two independent random choices of `count` among `entries`."""
    shared = np.arange(count + 1)
    weight = np.asarray(stats.hypergeom.pmf(shared, entries, count, count))
    return float((weight * shared / np.maximum(2 * count - shared, 1)).sum())
