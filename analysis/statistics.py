"""Inference with the stream as the unit: cluster bootstrap, paired tests, multiplicity, effect sizes.

Tokens, frames, heads and questions of one stream are not independent of each other, so nothing here
resamples them: every function takes values whose first axis runs over streams. A stream that lacks a
value holds NaN and is left out where it is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from einops import pack, unpack
from scipy import special, stats

from analysis.arrays import Array, Ints
from hermes_lab.errors import LabError

OfMeans = Callable[[Array], Array]
Alternative = Literal["greater", "less", "two-sided"]

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Intervals:
    """Estimates with intervals, all of one shape.

    Attributes:
        value: the statistic on all streams.
        low, high: ends of the interval at `level`; NaN with fewer than three streams.
        n_streams: streams that have a value, the smallest number over the entries.
        level: nominal coverage.
    """

    value: Array
    low: Array
    high: Array
    n_streams: int
    level: float = LEVEL

    def ends(self, *index: int) -> tuple[float, float, float]:
        """Value, low and high of one entry, as plain numbers."""
        return float(self.value[index]), float(self.low[index]), float(self.high[index])


def resample_counts(n_streams: int, draws: int, seed: int) -> Array:
    """How often each stream is drawn in each bootstrap sample, [draw, stream]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_streams, np.full(n_streams, 1 / n_streams), size=draws).astype(float)


def weighted_means(values: Array, counts: Array) -> Array:
    """Means over streams under resampling weights, NaN left out: [stream, ...] -> [draw, ...]."""
    flat, shape = pack([values], "stream *")
    present = np.isfinite(flat)
    total = counts @ np.where(present, flat, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = total / (counts @ present.astype(float))
    return unpack(means, shape, "draw *")[0]


def cluster_bootstrap(
    values: npt.ArrayLike,
    *,
    transform: OfMeans | None = None,
    method: Literal["percentile", "bca"] = "percentile",
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Intervals:
    """Interval of a function of stream means, by resampling whole streams.

    `values` is [stream, ...]; `transform` maps means [draw, ...] to statistics [draw, ...] (default: the
    means themselves). Percentile ends are widened for few streams by the t quantile (Hesterberg,
    arXiv 1411.5279, section on "expanded" intervals); "bca" is Efron's bias-corrected and accelerated.

    Raises:
        LabError: there is no stream at all.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim == 0 or len(values) == 0:
        raise LabError("A cluster bootstrap needs at least one stream, got none.")
    n = len(values)
    apply = transform or (lambda means: means)
    estimate = np.asarray(apply(weighted_means(values, np.ones((1, n)))))[0]
    present = np.isfinite(values).sum(0)
    n_present = int(present.min()) if present.size else n
    if n < 3:
        missing = np.full_like(estimate, np.nan)
        return Intervals(estimate, missing, missing.copy(), n_present, level)
    replicates = np.asarray(apply(weighted_means(values, resample_counts(n, draws, seed))))
    tail = (1 - level) / 2
    if method == "percentile":
        z = np.sqrt(n / (n - 1)) * stats.t.ppf(1 - tail, n - 1)
        with np.errstate(invalid="ignore"):
            low, high = _nanquantile(replicates, np.array([special.ndtr(-z), special.ndtr(z)]))
        return Intervals(estimate, low, high, n_present, level)
    left_out = np.asarray(apply(weighted_means(values, 1 - np.eye(n))))
    low, high = _bca_ends(estimate, replicates, left_out, tail)
    return Intervals(estimate, low, high, n_present, level)


def _nanquantile(replicates: Array, probabilities: Array) -> Array:
    """Quantiles over draws, [probability, ...]; entries without any value stay NaN."""
    if np.isfinite(replicates).all():
        return np.quantile(replicates, probabilities, axis=0)
    known = np.isfinite(replicates).any(0)
    out = np.full((len(probabilities), *replicates.shape[1:]), np.nan)
    out[:, known] = np.nanquantile(replicates[:, known], probabilities, axis=0)
    return out


def _bca_ends(
    estimate: Array, replicates: Array, left_out: Array, tail: float
) -> tuple[Array, Array]:
    """Ends of BCa intervals from replicates [draw, ...] and leave-one-stream-out values [stream, ...]."""
    draws = len(replicates)
    below = (replicates < estimate).sum(0) + 0.5 * (replicates == estimate).sum(0)
    bias = special.ndtri(np.clip(below / draws, 0.5 / draws, 1 - 0.5 / draws))
    spread = np.nanmean(left_out, 0) - left_out
    cubes, squares = np.nansum(spread**3, 0), np.nansum(spread**2, 0)
    acceleration = np.divide(
        cubes, 6 * squares**1.5, out=np.zeros_like(np.asarray(cubes)), where=squares > 0
    )
    ordered = np.sort(replicates, axis=0)
    ends: list[Array] = []
    for z in (special.ndtri(tail), special.ndtri(1 - tail)):
        shifted = special.ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
        index = np.clip(np.round(shifted * (draws - 1)), 0, draws - 1).astype(int)
        ends.append(np.take_along_axis(ordered, np.asarray(index)[None], axis=0)[0])
    return ends[0], ends[1]


def ratio_bootstrap(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Intervals:
    """Interval of sum / sum over streams, both [stream, ...]: accuracy where streams ask unequal numbers."""
    pair = np.stack(
        [np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)], axis=1
    )

    def divide(means: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return means[:, 0] / means[:, 1]

    return cluster_bootstrap(pair, transform=divide, draws=draws, level=level, seed=seed)


def paired_difference(
    observed: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    method: Literal["percentile", "bca"] = "percentile",
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Intervals:
    """Interval of the mean within-stream difference observed - reference, both [stream, ...]."""
    difference = np.asarray(observed, dtype=float) - np.asarray(reference, dtype=float)
    return cluster_bootstrap(difference, method=method, draws=draws, level=level, seed=seed)


def effect_size(
    differences: npt.ArrayLike, *, draws: int = DRAWS, level: float = LEVEL, seed: int = 0
) -> Intervals:
    """Hedges' g of paired differences [stream, ...] (mean over standard deviation, small-sample corrected)."""
    values = np.asarray(differences, dtype=float)
    n = len(values)
    correction = 1 - 3 / (4 * (n - 1) - 1) if n > 2 else np.nan

    def standardise(means: Array) -> Array:
        mean = means[:, 0]
        variance = np.maximum(means[:, 1] - mean**2, 0) * n / max(n - 1, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(variance > 0, correction * mean / np.sqrt(variance), np.nan)

    return cluster_bootstrap(
        np.stack([values, values**2], axis=1),
        transform=standardise,
        draws=draws,
        level=level,
        seed=seed,
    )


# --- multiplicity ------------------------------------------------------------------------------
def holm(p_values: npt.ArrayLike) -> Array:
    """Holm's step-down adjusted p-values, any shape (family-wise error over all entries)."""
    p = np.asarray(p_values, dtype=float)
    flat = p.ravel()
    order = np.argsort(flat, kind="stable")
    adjusted = np.minimum(1, np.maximum.accumulate(flat[order] * np.arange(len(flat), 0, -1)))
    out = np.empty_like(flat)
    out[order] = adjusted
    return out.reshape(p.shape)


@dataclass(frozen=True)
class SignFlipTest:
    """Sign-flip permutation test of paired differences.

    Attributes:
        statistic: studentised mean differences.
        p: p-values of each entry alone.
        p_corrected: family-wise p-values by the maximum statistic over all entries.
        flips: sign patterns that were tried.
        exact: whether those were all there are.
    """

    statistic: Array
    p: Array
    p_corrected: Array
    flips: int
    exact: bool


def sign_flip_test(
    differences: npt.ArrayLike,
    *,
    alternative: Alternative = "greater",
    draws: int = 4096,
    seed: int = 0,
) -> SignFlipTest:
    """Test whether mean within-stream differences [stream, ...] are beyond 0, corrected over all entries.

    Under the null a stream's difference is as likely to have either sign; one sign per stream is flipped for
    all entries together, so their dependence is kept. All patterns are enumerated where `draws` allows.
    The smallest p that n streams can give is 2 ** -n.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    flat, shape = pack([values], "stream *")
    present = np.isfinite(flat)
    flat = np.where(present, flat, 0.0)
    count = present.sum(0)
    exact = 2**n <= draws
    if exact:
        bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        signs = 1.0 - 2.0 * bits
    else:
        rng = np.random.default_rng(seed)
        signs = np.concatenate([np.ones((1, n)), rng.choice([-1.0, 1.0], size=(draws - 1, n))])

    squares = (flat**2).sum(0)
    permuted = _studentised(signs @ flat, squares, count)
    if alternative == "less":
        permuted = -permuted
    elif alternative == "two-sided":
        permuted = np.abs(permuted)
    observed = permuted[0]
    slack = 1e-9 * np.maximum(1, np.abs(np.where(np.isfinite(observed), observed, 1)))
    threshold = np.where(np.isfinite(observed), observed - slack, observed)
    p = (permuted >= threshold).mean(0)
    largest = np.sort(permuted.max(1)) if flat.shape[1] else np.zeros(len(signs))
    p_max = 1 - np.searchsorted(largest, threshold, side="left") / len(largest)
    statistic = observed if alternative == "greater" else -observed
    if alternative == "two-sided":
        statistic = _studentised(flat.sum(0)[None], squares, count)[0]
    found = (unpack(part, shape, "*")[0] for part in (statistic, p, p_max))
    return SignFlipTest(*found, flips=len(signs), exact=exact)


def _studentised(sums: Array, squares: Array, count: Ints) -> Array:
    """t statistics from sums over streams [flip, entry]; a constant non-zero difference gives infinity."""
    n = np.maximum(count, 1)
    mean = sums / n
    variance = np.maximum(squares / n - mean**2, 0) / np.maximum(n - 1, 1)
    tiny = 1e-12 * np.maximum(squares / n, 1e-300)
    constant = variance <= tiny
    t = mean / np.sqrt(np.where(constant, 1, variance))
    return np.where(constant, np.where(mean == 0, 0.0, np.copysign(np.inf, mean)), t)
