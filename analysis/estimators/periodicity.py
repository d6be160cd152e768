"""Does attention repeat with the frame, and at which slot of it?

A grid of attention [..., frame, slot] is read as one series of frame * slot tokens, in logs. A forgetting
curve must not be taken for a rhythm: it is removed as the mean of each frame plus, within frames, as much of
the local slope as the row shows (attention that fades token by token repeats as a ramp in every frame).

Periodicity alone proves nothing: on a still camera every frame has the same content, so every model, trained
or not, repeats. It is a finding only above the nulls, and only if the phase - the slot - is the same for
other content.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from einops import rearrange

from analysis.arrays import Array, Ints
from analysis.estimators.agreement import correlation

FLAT = 1e-3
"""Standard deviation of log attention below which a row is flat: rounding has rhythms too."""


@dataclass(frozen=True)
class Periodicity:
    """Rhythm of attention at the tokens-per-frame lag; every value has the grid's leading shape.

    Attributes:
        acf: autocorrelation at a lag of one frame.
        off_lag: median autocorrelation at control lags between half a frame and one and a half.
        prominence: acf - off_lag.
        spectrum: power at the frame rhythm and its harmonics over their share of frequencies; noise is 1.
        phase_lock: how often a frame's largest token stands at the most common slot.
        slot: that slot.
    """

    acf: Array
    off_lag: Array
    prominence: Array
    spectrum: Array
    phase_lock: Array
    slot: Ints


def log_attention(grid: npt.ArrayLike) -> Array:
    """Log of attention, zeros replaced by a hundredth of the smallest positive weight of the same row."""
    grid = np.asarray(grid, dtype=float)
    smallest = np.where(grid > 0, grid, np.inf).min((-2, -1), keepdims=True)
    floor = np.where(np.isfinite(smallest), smallest / 100, 1.0)
    return np.log(np.maximum(grid, floor))


def detrended(grid: npt.ArrayLike) -> Array:
    """Log attention without its forgetting curve, [..., frame, slot] -> [..., frame, slot].

    The mean of each frame is removed, and a ramp inside the frames: the local slope of the frame means, times
    a factor between 0 (attention fades from frame to frame) and 1 (from token to token). The factor is the
    median slope between any two slots (Theil-Sen), which a few peaks cannot move.
    """
    logs = log_attention(grid)
    slots = logs.shape[-1]
    means = logs.mean(-1, keepdims=True)
    within = logs - means
    slope = np.gradient(means[..., 0], axis=-1) / slots
    profile = within.mean(-2)
    earlier, later = np.triu_indices(slots, 1)
    slopes = (profile[..., later] - profile[..., earlier]) / (later - earlier)
    overall = slope.mean(-1)
    factor = np.clip(np.median(slopes, -1) / np.where(overall == 0, np.inf, overall), 0, 1)
    centred = np.arange(slots) - (slots - 1) / 2
    return within - (factor[..., None] * slope)[..., None] * centred


def autocorrelation(series: npt.ArrayLike, lags: npt.ArrayLike) -> Array:
    """Autocorrelation of [..., token] at some lags, [..., lag]: mean product over the pairs, over the variance.

    Series that are flat to a thousandth give 0.
    """
    x = np.asarray(series, dtype=float)
    n = x.shape[-1]
    x = x - x.mean(-1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(x, 2 * n)) ** 2
    sums = np.fft.irfft(spectrum, 2 * n)[..., :n]
    lags = np.asarray(lags, dtype=int)
    variance = sums[..., :1] / n
    with np.errstate(invalid="ignore", divide="ignore"):
        out = sums[..., lags] / (n - lags) / variance
    return np.where(variance > FLAT**2, out, 0.0)


def control_lags(slots: int) -> Ints:
    """Lags from half a frame to one and a half, those within one token of a whole frame left out."""
    lags = np.arange(max(2, slots // 2), (3 * slots) // 2 + 1)
    return lags[np.abs(lags - slots) > 1]


def periodicity(grid: npt.ArrayLike) -> Periodicity:
    """Measure the rhythm of attention grids [..., frame, slot] of at least three frames and four slots.

    Raises:
        ValueError: too few frames or slots for a rhythm to be told from noise.
    """
    grid = np.asarray(grid, dtype=float)
    frames, slots = grid.shape[-2:]
    if frames < 3 or slots < 4:
        raise ValueError(
            f"Periodicity needs 3 frames of 4 tokens or more, got {frames} frames of {slots}."
        )
    residual = detrended(grid)
    series = rearrange(residual, "... frame slot -> ... (frame slot)")
    at_period = autocorrelation(series, [slots])[..., 0]
    lags = control_lags(slots)
    # Removing frame means correlates tokens of one frame by -1 / (slots - 1): noise must give 0 here.
    bias = -np.maximum(slots - lags, 0) / slots / (slots - 1)
    off = np.median(autocorrelation(series, lags) - bias, -1)
    power = np.abs(np.fft.rfft(series, axis=-1)[..., 1:]) ** 2
    harmonic = np.arange(1, power.shape[-1] + 1) % frames == 0
    total = power.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        spectrum = np.where(
            total > (FLAT * series.shape[-1]) ** 2,
            power[..., harmonic].sum(-1) / total / harmonic.mean(),
            1.0,
        )
    peaks = residual.argmax(-1)
    counts = (peaks[..., None] == np.arange(slots)).sum(-2)
    return Periodicity(
        acf=at_period,
        off_lag=off,
        prominence=at_period - off,
        spectrum=spectrum,
        phase_lock=counts.max(-1) / frames,
        slot=counts.argmax(-1),
    )


def slot_profile(grid: npt.ArrayLike) -> Array:
    """Share of each slot within its frame over the uniform share, forgetting removed, [..., slot].

    Every frame counts alike, however little attention it gets as a whole, and a token is not called an anchor
    for being the newest of its frame.
    """
    weights = np.exp(detrended(grid))
    return (weights / weights.mean(-1, keepdims=True)).mean(-2)


def anchor_share(grid: npt.ArrayLike, slot: npt.ArrayLike) -> Array:
    """Share of one slot over its uniform share, the slot chosen beforehand (on other streams).

    `slot` has the leading shape of `grid`, or one that broadcasts to it.
    """
    profile = slot_profile(grid)
    index = np.broadcast_to(np.asarray(slot, dtype=int), profile.shape[:-1])
    return np.take_along_axis(profile, index[..., None], -1)[..., 0]


def phase_match(profiles: npt.ArrayLike, reference: npt.ArrayLike) -> Array:
    """Correlation of slot profiles [stream, ..., slot] with a reference from other streams [..., slot].

    Independent phases give 0 on average; a fixed slot over different content gives values near 1.
    """
    return correlation(profiles, np.asarray(reference, dtype=float)[None])
