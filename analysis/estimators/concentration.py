"""How sparse attention is, and how much of it goes to sinks.

Entropy is divided by the log of the number of visible keys, because a longer cache alone lowers every
weight. Two kinds of sink are counted apart: the first cached token (StreamingLLM, arXiv 2309.17453) and
visual tokens with massive activations in a few dimensions of the residual stream (arXiv 2503.03321,
section 3; massive activations: arXiv 2402.17762).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from analysis.arrays import Array, Ints, Mask


def entropy_ratio(weights: npt.ArrayLike) -> Array:
    """Entropy over log n along the last axis after normalising: 1 uniform, 0 a single token."""
    p = np.asarray(weights, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = p / p.sum(-1, keepdims=True)
        terms = np.where(p > 0, -p * np.log(p), 0.0)
    return terms.sum(-1) / np.log(p.shape[-1])


def top_mass(weights: npt.ArrayLike, fraction: float = 0.05) -> Array:
    """Share of the mass held by the largest `fraction` of the tokens; uniform gives that fraction.

    Where the fraction is not a whole number of tokens, the next largest token counts in part, so that
    uniform attention gives exactly `fraction` for every length.
    """
    w = -np.sort(-np.asarray(weights, dtype=float), axis=-1)
    wanted = fraction * w.shape[-1]
    whole = int(wanted)
    mass = w[..., :whole].sum(-1)
    if whole < w.shape[-1]:
        mass = mass + (wanted - whole) * w[..., whole]
    return mass / w.sum(-1)


def sink_dimensions(hidden: npt.ArrayLike, *, smallest: float = 20.0, ratio: float = 50.0) -> Ints:
    """Dimensions in which the first token is massively active: its RMS-normalised value is at least
    `smallest`, or `ratio` times the median magnitude of that token.

    `hidden` is one token's residual stream [dim].
    """
    x = np.abs(np.asarray(hidden, dtype=float))
    rms = np.sqrt((x**2).mean())
    if rms == 0:
        return np.empty(0, dtype=np.int64)
    massive = (x / rms >= smallest) | (x >= ratio * max(float(np.median(x)), 1e-12))
    return np.flatnonzero(massive)


def massive_tokens(
    hidden: npt.ArrayLike, dimensions: npt.ArrayLike, *, threshold: float = 20.0
) -> Mask:
    """Tokens [..., token] whose RMS-normalised value in one of the dimensions reaches `threshold`.

    `hidden` is [..., token, dim]. With `threshold` 20 this is the published criterion for models of 7 B
    parameters; with d dimensions no value can exceed sqrt(d), so small models need a smaller one, which the
    caller must state.
    """
    x = np.asarray(hidden, dtype=float)
    chosen = np.asarray(dimensions, dtype=int)
    if chosen.size == 0:
        return np.zeros(x.shape[:-1], dtype=bool)
    rms = np.sqrt((x**2).mean(-1, keepdims=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.abs(x[..., chosen]) / rms).max(-1) >= threshold


def token_set_share(weights: npt.ArrayLike, members: Mask) -> tuple[Array, Array]:
    """Share of the mass on a set of tokens, and that share over the uniform one (NaN for an empty set)."""
    w = np.asarray(weights, dtype=float)
    share = (w * members).sum(-1) / w.sum(-1)
    size = members.sum(-1) / members.shape[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return share, np.where(size > 0, share / size, np.nan)
