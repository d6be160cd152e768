"""Where along the depth does behaviour change, and are there bands at all?

A curve holds one or several features per layer. Steps (piecewise constant curves with one or two changes)
are fitted by least squares over all possible edges. Steps can be fitted to anything, so they are compared,
on streams that were left out, with a flat curve, a straight line and a free curve: bands are a good
description only where steps predict left-out streams better than a gradual trend does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from analysis.arrays import Array, Ints
from analysis.statistics import (
    Intervals,
    cluster_bootstrap,
    resample_counts,
    weighted_means,
)


def segment_costs(curve: npt.ArrayLike) -> Array:
    """Squared error of fitting layers [start, end) by their mean: [..., layer, feature] -> [..., start, end]."""
    curve = np.asarray(curve, dtype=float)
    layers = curve.shape[-2]
    zero = np.zeros((*curve.shape[:-2], 1, curve.shape[-1]))
    sums = np.concatenate([zero, np.cumsum(curve, -2)], -2)
    squares = np.concatenate([zero, np.cumsum(curve**2, -2)], -2)
    span = sums[..., None, :, :] - sums[..., :, None, :]
    span_squares = squares[..., None, :, :] - squares[..., :, None, :]
    length = np.arange(layers + 1)[None, :] - np.arange(layers + 1)[:, None]
    cost = span_squares - span**2 / np.maximum(length, 1)[..., None]
    return np.where(length > 0, np.maximum(cost, 0).sum(-1), np.inf)


def fit_steps(curve: npt.ArrayLike, changes: int) -> tuple[Ints, Array]:
    """Best edges and squared error of a curve [..., layer, feature] with a given number of changes.

    An edge e means that the new level starts at layer e. Returns edges [..., change] in ascending order and
    the error [...]; of equally good edges the shallowest are taken.

    Raises:
        ValueError: fewer layers than segments.
    """
    curve = np.asarray(curve, dtype=float)
    layers = curve.shape[-2]
    if layers < changes + 1:
        raise ValueError(f"{changes} changes need at least {changes + 1} layers, got {layers}.")
    cost = segment_costs(curve)
    options = list(combinations(range(1, layers), changes))
    total = np.stack(
        [
            sum(cost[..., a, b] for a, b in zip((0, *edges), (*edges, layers), strict=True))
            for edges in options
        ],
        -1,
    )
    best = total.argmin(-1)
    edges = np.asarray(options, dtype=np.int64).reshape(len(options), changes)[best]
    return edges, np.take_along_axis(total, best[..., None], -1)[..., 0]


def step_curve(curve: npt.ArrayLike, edges: npt.ArrayLike) -> Array:
    """One curve [layer, feature] replaced by its means between edges [change]."""
    out = np.array(curve, dtype=float)
    bounds = [0, *np.asarray(edges, dtype=int).tolist(), len(out)]
    for start, end in pairwise(bounds):
        out[start:end] = out[start:end].mean(0)
    return out


def line_curve(curve: npt.ArrayLike) -> Array:
    """One curve [layer, feature] replaced by its least-squares line over depth."""
    curve = np.asarray(curve, dtype=float)
    depth = np.arange(len(curve)) - (len(curve) - 1) / 2
    slope = depth @ curve / (depth @ depth)
    return curve.mean(0) + depth[:, None] * slope


@dataclass(frozen=True)
class DepthModels:
    """How well descriptions of the depth curve predict streams that were left out.

    Attributes:
        error: mean squared error of each description, per left-out stream, name -> [stream].
        explained: (flat - description) / (flat - free), over all streams: 1 is as good as a level of its
            own for every layer, 0 no better than one level for all.
    """

    error: Mapping[str, Array]
    explained: Mapping[str, float]


def compare_depth_models(values: npt.ArrayLike) -> DepthModels:
    """Leave-one-stream-out comparison on [stream, layer, feature]: flat, line, one_change, two_changes, free."""
    values = np.asarray(values, dtype=float)
    streams = len(values)
    error: dict[str, list[float]] = {}
    for left_out in range(streams):
        curve = np.delete(values, left_out, axis=0).mean(0)
        fitted = {
            "flat": np.broadcast_to(curve.mean(0), curve.shape),
            "line": line_curve(curve),
            "one_change": step_curve(curve, fit_steps(curve, 1)[0]),
            "two_changes": step_curve(curve, fit_steps(curve, 2)[0]),
            "free": curve,
        }
        for name, prediction in fitted.items():
            error.setdefault(name, []).append(float(((values[left_out] - prediction) ** 2).mean()))
    arrays = {name: np.asarray(e) for name, e in error.items()}
    gain = arrays["flat"].mean() - arrays["free"].mean()
    explained = {
        name: float((arrays["flat"].mean() - e.mean()) / gain) if gain > 0 else float("nan")
        for name, e in arrays.items()
    }
    return DepthModels(arrays, explained)


@dataclass(frozen=True)
class Partition:
    """Shallow, middle and deep layers found from the data alone.

    Attributes:
        edges: first middle layer and first deep layer.
        intervals: bootstrap intervals of both edges, over streams.
        support: share of bootstrap samples that give exactly these edges.
        layers: number of layers.
        models: whether bands describe the depth better than a trend does.
    """

    edges: tuple[int, int]
    intervals: Intervals
    support: float
    layers: int
    models: DepthModels

    @property
    def bands(self) -> tuple[range, range, range]:
        """Layers of the shallow, middle and deep band."""
        first, second = self.edges
        return range(first), range(first, second), range(second, self.layers)


def find_partition(
    values: npt.ArrayLike, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Partition:
    """Automatic partition from [stream, layer, feature]; features are scaled to unit spread over layers."""
    values = np.asarray(values, dtype=float)
    spread = values.mean(0).std(0)
    scaled = (values - values.mean((0, 1))) / np.where(spread > 0, spread, 1)
    edges = fit_steps(scaled.mean(0), 2)[0]
    intervals = cluster_bootstrap(
        scaled,
        transform=lambda means: fit_steps(means, 2)[0].astype(float),
        draws=draws,
        level=level,
        seed=seed,
    )
    resampled = weighted_means(scaled, resample_counts(len(scaled), draws, seed))
    support = (fit_steps(resampled, 2)[0] == edges).all(-1).mean()
    return Partition(
        edges=(int(edges[0]), int(edges[1])),
        intervals=intervals,
        support=float(support),
        layers=values.shape[1],
        models=compare_depth_models(scaled),
    )
