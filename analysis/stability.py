"""Would the same heads come out on top with other streams?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from analysis.arrays import Array
from analysis.estimators.agreement import chance_jaccard, jaccard, spearman, top_mask
from analysis.statistics import resample_counts, weighted_means


@dataclass(frozen=True)
class Stability:
    """Agreement of a ranking with itself under resampling of streams.

    Attributes:
        jaccard, jaccard_low: mean and 5 % quantile of the overlap of two resamples' top sets.
        chance_jaccard: what two random choices would overlap.
        spearman, spearman_low: mean and 5 % quantile of the rank correlation of two resamples.
        selection: how often each item is in the top set, [item].
        top: size of the top set.
    """

    jaccard: float
    jaccard_low: float
    chance_jaccard: float
    spearman: float
    spearman_low: float
    selection: Array
    top: int


def ranking_stability(
    scores: npt.ArrayLike, top: int, *, draws: int = 1000, seed: int = 0
) -> Stability:
    """Compare the top items of pairs of bootstrap samples; `scores` is [stream, item] (items: heads)."""
    values = np.asarray(scores, dtype=float)
    means = weighted_means(values, resample_counts(len(values), 2 * draws, seed))
    chosen = top_mask(means, top)
    overlap = jaccard(chosen[:draws], chosen[draws:])
    ranks = np.nan_to_num(spearman(means[:draws], means[draws:]))  # equal scores rank nothing
    return Stability(
        jaccard=float(overlap.mean()),
        jaccard_low=float(np.quantile(overlap, 0.05)),
        chance_jaccard=chance_jaccard(top, values.shape[1]),
        spearman=float(ranks.mean()),
        spearman_low=float(np.quantile(ranks, 0.05)),
        selection=chosen.mean(0),
        top=top,
    )
