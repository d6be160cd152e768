"""Attention as a function of age: how much more the newest frames get, and how fast it fades.

A profile is given in units of the uniform share: 1.0 at every age means that age does not matter. The
fitted curve is  share(age) = floor + amplitude * exp(-rate * age) + spike * [age = 0],  age in frames. The
spike is kept apart because the newest frame often stands out without any decay behind it, which a plain
exponential would report as very fast forgetting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from einops import pack, unpack

from analysis.arrays import Array

MIN_RATE = 0.005
MAX_RATE = 5.0
REFINEMENTS = 3
STRONG_EVIDENCE = 6.0
"""BIC difference from which a decay is reported rather than a flat tail (Kass and Raftery 1995: "strong")."""


@dataclass(frozen=True)
class RecencyFit:
    """Parameters of the fitted profile, each of the profile's leading shape.

    Attributes:
        rate: forgetting rate per frame; NaN where decay is not strongly evidenced (then the amplitude is 0).
        half_life_frames: log 2 / rate.
        amplitude, floor, spike: in units of the uniform share.
        r2: variance of the whole profile explained.
        r2_tail: variance explained beyond the newest frame, where only the decay can explain it.
        evidence: BIC of a flat tail minus BIC of the decaying one.
    """

    rate: Array
    half_life_frames: Array
    amplitude: Array
    floor: Array
    spike: Array
    r2: Array
    r2_tail: Array
    evidence: Array

    def curve(self, ages: npt.ArrayLike) -> Array:
        """The fitted profile at some ages, [..., age]."""
        age = np.asarray(ages, dtype=float)
        rate = np.nan_to_num(self.rate)[..., None]
        decay = self.amplitude[..., None] * np.exp(-rate * age)
        return self.floor[..., None] + decay + self.spike[..., None] * (age == 0)


def age_profile(grid: npt.ArrayLike) -> Array:
    """Mass by age over its uniform share, [..., frame, slot] -> [..., age]; age 0 is the newest frame.

    Only the frames of `grid` count: attention to text is left out by renormalising, so a head that looks at
    the question rather than the video does not count as recent.
    """
    mass = np.asarray(grid, dtype=float).sum(-1)[..., ::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return mass * mass.shape[-1] / mass.sum(-1, keepdims=True)


def newest_share(profile: npt.ArrayLike, newest_frames: int = 1) -> Array:
    """Share of the newest frames over their uniform share, from a profile [..., age]; uniform is 1."""
    return np.asarray(profile, dtype=float)[..., :newest_frames].mean(-1)


def recency_index(profile: npt.ArrayLike) -> Array:
    """How much younger the attended video is than the video: 0 uniform, 1 newest frame only, below 0 older.

    1 - (attention-weighted mean age) / (mean age of all frames), from a profile [..., age].
    """
    share = np.asarray(profile, dtype=float)
    ages = np.arange(share.shape[-1])
    return 1 - (share * ages).mean(-1) / ages.mean()


def fit_recency(profile: npt.ArrayLike) -> RecencyFit:
    """Least-squares fit of the decay curve to profiles [..., age] of at least five ages.

    For a fixed rate the other parameters are linear, so the rate is searched on a logarithmic grid that is
    refined three times. Amplitude and floor are kept non-negative. The spike takes up what is left at age 0.

    Raises:
        ValueError: fewer than five ages; the curve would fit anything.
    """
    y = np.asarray(profile, dtype=float)
    if y.shape[-1] < 5:
        raise ValueError(f"A forgetting curve needs at least 5 frames of age, got {y.shape[-1]}.")
    flat, lead = pack([y], "* age")
    tail = flat[:, 1:]
    log_rate, amplitude, floor, sse = _decay(tail)
    flat_sse = ((tail - tail.mean(-1, keepdims=True)) ** 2).sum(-1)
    noise = 1e-12 * np.maximum((flat**2).sum(-1), 1e-300)
    n = tail.shape[-1]
    evidence = n * np.log((flat_sse + noise) / (sse + noise)) - 2 * np.log(n)
    decays = (evidence >= STRONG_EVIDENCE) & (amplitude > 0)
    rate = np.where(decays, np.exp(log_rate), np.nan)
    amplitude = np.where(decays, amplitude, 0.0)
    floor = np.where(decays, floor, tail.mean(-1))
    sse = np.where(decays, sse, flat_sse)
    spike = flat[:, 0] - floor - amplitude
    total = ((flat - flat.mean(-1, keepdims=True)) ** 2).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(total > noise, 1 - sse / total, 1.0)
        r2_tail = np.where(flat_sse > noise, 1 - sse / flat_sse, np.nan)
    parts = (rate, np.log(2) / rate, amplitude, floor, spike, r2, r2_tail, evidence)
    return RecencyFit(*(unpack(part, lead, "*")[0] for part in parts))


def _decay(tail: Array) -> tuple[Array, Array, Array, Array]:
    """The best decay beyond the newest frame, [row, age] from age 1 on: log rate, amplitude, floor, squared error."""
    ends = np.log(MIN_RATE), np.log(MAX_RATE)
    log_rates = np.broadcast_to(np.linspace(*ends, 60), (len(tail), 60))
    width = float(log_rates[0, 1] - log_rates[0, 0])
    found = _best_of(tail, log_rates)
    for _ in range(REFINEMENTS):
        offsets = np.linspace(-width, width, 21)
        found = _best_of(tail, np.clip(found[0][:, None] + offsets, *ends))
        width /= 10
    return found


def _best_of(tail: Array, log_rates: Array) -> tuple[Array, Array, Array, Array]:
    """The best of the rates that are tried for each row, [row, rate]; see `_decay`."""
    age = np.arange(1, tail.shape[-1] + 1, dtype=float)
    basis = np.exp(-np.exp(log_rates)[..., None] * age)
    amplitude, floor, sse = _linear_part(tail[:, None, :], basis)
    rows, best = np.arange(len(tail)), sse.argmin(-1)
    return log_rates[rows, best], amplitude[rows, best], floor[rows, best], sse[rows, best]


def _linear_part(y: Array, basis: Array) -> tuple[Array, Array, Array]:
    """Non-negative least squares of y [row, 1, age] on (1, basis [row, rate, age]): amplitude, floor, SSE."""
    mean_y, mean_b = y.mean(-1), basis.mean(-1)
    centred = basis - mean_b[..., None]
    variance = (centred**2).mean(-1)
    covariance = (centred * y).mean(-1)
    amplitude = np.where(variance > 1e-15, covariance / np.maximum(variance, 1e-15), 0.0)
    amplitude = np.maximum(amplitude, 0.0)
    floor = mean_y - amplitude * mean_b
    below = floor < 0
    alone = (basis * y).mean(-1) / np.maximum((basis**2).mean(-1), 1e-300)
    amplitude = np.where(below, np.maximum(alone, 0.0), amplitude)
    floor = np.where(below, 0.0, floor)
    residual = y - floor[..., None] - amplitude[..., None] * basis
    return amplitude, floor, (residual**2).sum(-1)
