"""What the studies of attention share: panels of nulls, tables per layer and per head, robustness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from einops import rearrange

from analysis import claims
from analysis.arrays import Array, Ints
from analysis.claims import ControlRole, Estimate, Finding, NullPanel, RequiredControl, Verdict
from analysis.context import StudyContext, seeded
from analysis.result import FigureSpec, Table
from analysis.stability import ranking_stability
from analysis.statistics import cluster_bootstrap, effect_size, sign_flip_test

VariantMetric = Callable[[str], Array]
"""Gives a variant's values, [stream, ...]."""
SEEDED = ("random_weights", "permuted_weights")
NULL_PANEL = FigureSpec(
    "panel",
    "null_panel",
    ("nulls",),
    "Null panel",
    "Each claim's metric beside every control, on one axis.",
    "Anything about other streams or models.",
)
"""The figure with which every study ends; it draws the table of `panel_table`."""
NOTES = {
    "uniform": "equal weight on every visible video token",
    "position_only": "video keys keep their places and swap their content, at every layer by itself",
    "content_shuffled": "visual tokens permuted over the whole stream before the decoder",
    "patches_shuffled": "visual tokens permuted within every frame before the decoder",
    "cells_shuffled": "pixels of each frame's cells permuted before the vision tower",
    "frames_shuffled": "frames in random order",
    "moving_camera": "the same seeds with a panning camera",
    "random_weights": "same architecture, fresh weights; the nearest of the seeds",
    "permuted_weights": "trained weights with every decoder tensor permuted; the nearest of the seeds",
    "half_length": "streams of half the length",
    "half_rate": "every second frame only",
}


def versions(context: StudyContext, kind: str, metric: VariantMetric) -> Array:
    """A metric under every version of a seeded null, [seed, stream, ...]."""
    return np.stack([metric(seeded(kind, seed)) for seed in range(context.settings.random_seeds)])


def values_of(context: StudyContext, name: str, metric: VariantMetric, reference: float) -> Array:
    """A metric under a named control: [stream, ...], or [seed, stream, ...] for seeded nulls."""
    if name == "uniform":
        return np.full_like(metric("trained"), reference)
    if name in SEEDED:
        return versions(context, name, metric)
    return metric(name)


def needs_of(roles: Mapping[str, ControlRole]) -> tuple[RequiredControl, ...]:
    """The controls without which there is no verdict: all except context; random weights of three seeds."""
    return tuple(
        RequiredControl(name, role, claims.RANDOM_SEEDS if name == "random_weights" else 1)
        for name, role in roles.items()
        if role != "context"
    )


def panel(
    context: StudyContext,
    metric: VariantMetric,
    roles: Mapping[str, ControlRole],
    reference: float,
    extra: Mapping[str, Array] | None = None,
) -> tuple[Estimate, NullPanel]:
    """The estimate of a claim's metric, [stream] per variant, and its controls.

    `extra` holds controls that are no variant of the model or the stream, [stream] or [version, stream].
    """
    observed = metric("trained")
    found: list[claims.Control] = []
    for name, role in roles.items():
        given = (extra or {}).get(name)
        values = values_of(context, name, metric, reference) if given is None else given
        note = NOTES.get(name, "")
        if role == "persist":
            found.append(claims.persistence(name, values, reference, note=note))
        else:
            found.append(claims.null(name, observed, values, role=role, note=note))
    return claims.estimate(observed), NullPanel(tuple(found))


def named_null_panel(
    observed: Array, nulls: Mapping[str, Array], capable: Mapping[str, Array] | None = None
) -> NullPanel:
    """A panel of nulls that were measured beside the observation, [stream] or [version, stream].

    `capable` holds what must be above 0 for the question to make sense, [stream].
    """
    found = [claims.null(name, observed, values) for name, values in nulls.items()]
    found += [claims.capability(name, values) for name, values in (capable or {}).items()]
    return NullPanel(tuple(found))


def at_slot(profiles: Array, chosen: Ints) -> Array:
    """Each head's share at its own slot, [stream, layer, head, slot] and [layer, head] -> [stream, layer, head]."""
    index = np.broadcast_to(chosen[None, ..., None], (*profiles.shape[:3], 1))
    return np.take_along_axis(profiles, index, -1)[..., 0]


def deep_slot(context: StudyContext) -> int:
    """The one slot of a frame to which deep layers attend most on development streams."""
    slots = context.observe("trained", "development").question("slots")
    return int(slots[:, list(context.paper_bands[2])].mean((0, 1, 2)).argmax())


# --- tables --------------------------------------------------------------------------------------
HEAD_COLUMNS = (
    "layer", "head", "value", "low", "high", "strongest_null", "null_value", "excess", "excess_low",
    "excess_high", "effect_size_g", "p", "p_corrected", "beyond_null",
)  # fmt: skip


def head_table(name: str, observed: Array, nulls: Mapping[str, Array], caption: str) -> Table:
    """Per layer and head: estimate, strongest null, excess; p by maximum statistic over all heads.

    `observed` is [stream, layer, head]; each null the same, or [version, stream, layer, head]. A head is
    beyond the null only if it exceeds every null, each corrected over heads (intersection-union).
    """
    flat: dict[str, Array] = {}
    for label, values in nulls.items():
        if values.ndim == 4:
            flat |= {f"{label}-{i}": v for i, v in enumerate(values)}
        else:
            flat[label] = values
    labels = list(flat)
    stack = np.stack([flat[label] for label in labels])
    tests = [sign_flip_test(observed - v) for v in stack]
    p = np.max([t.p for t in tests], axis=0)
    corrected = np.max([t.p_corrected for t in tests], axis=0)
    strongest = stack.mean(1).argmax(0)
    nearest = np.take_along_axis(stack, strongest[None, None], 0)[0]
    own = cluster_bootstrap(observed)
    excess = cluster_bootstrap(observed - nearest)
    size = effect_size(observed - nearest)
    rows = [
        (
            layer, head, *(float(a[layer, head]) for a in (own.value, own.low, own.high)),
            labels[int(strongest[layer, head])], float(nearest.mean(0)[layer, head]),
            *(float(a[layer, head]) for a in (excess.value, excess.low, excess.high, size.value, p, corrected)),
            bool(corrected[layer, head] < claims.ALPHA and excess.low[layer, head] > 0),
        )
        for layer in range(observed.shape[1])
        for head in range(observed.shape[2])
    ]  # fmt: skip
    return Table(name, HEAD_COLUMNS, tuple(rows), caption)


def depth_table(name: str, curves: Mapping[str, Array], caption: str) -> Table:
    """Mean over heads by layer with intervals: series -> [stream, layer, head]."""
    rows: list[tuple[str | int | float, ...]] = []
    for series, values in curves.items():
        found = cluster_bootstrap(values.mean(2))
        for layer in range(values.shape[1]):
            rows.append((series, layer, *found.ends(layer)))
    return Table(name, ("series", "layer", "value", "low", "high"), tuple(rows), caption)


def curve_table(
    name: str, axis: str, curves: Mapping[str, Array], caption: str, start: int = 0
) -> Table:
    """Curves over age, slot or the like, with intervals: series -> [stream, point]."""
    rows: list[tuple[str | int | float, ...]] = []
    for series, values in curves.items():
        found = cluster_bootstrap(values)
        for point in range(values.shape[1]):
            rows.append((series, point + start, *found.ends(point)))
    return Table(name, ("series", axis, "value", "low", "high"), tuple(rows), caption)


def panel_table(name: str, found: Sequence[claims.Finding]) -> Table:
    """Every claim's estimate beside every control: the null panel."""
    rows: list[tuple[str | int | float, ...]] = []
    for finding in found:
        key, value = finding.claim.key, finding.estimate
        rows.append((key, "observed", "estimate", value.value, value.low, value.high, 1, 1.0))
        for c in finding.panel.controls:
            e = c.estimate
            rows.append((key, c.name, c.role, e.value, e.low, e.high, c.replicates, c.p))
    columns = ("claim", "condition", "role", "value", "low", "high", "versions", "p")
    return Table(
        name, columns, tuple(rows), "Each claim's metric as observed and under every control."
    )


def named_bands(bands: Sequence[range]) -> dict[str, list[int]]:
    """Names of bands to layers, empty ones left out."""
    names = ("shallow", "middle", "deep")
    return {n: list(b) for n, b in zip(names, bands, strict=True) if len(b)}


def unsupported(findings: Sequence[Finding]) -> tuple[str, ...]:
    """A sentence for each claim that did not come out as it says."""
    return tuple(
        f"{f.claim.key}: {f.verdict}. {f.because}"
        for f in findings
        if f.verdict is not Verdict.SUPPORTED
    )


# --- robustness ------------------------------------------------------------------------------------
def leave_one_out(values: Array, what: str) -> str:
    """Range of a mean over streams when each stream is left out once."""
    means = (values.sum() - values) / (len(values) - 1)
    return f"{what}: {values.mean():.3g}, between {means.min():.3g} and {means.max():.3g} leaving one stream out"


def top_heads(scores: Array, what: str) -> str:
    """Stability of the top tenth of the heads under resampling of streams, from [stream, layer, head]."""
    flat = rearrange(scores, "stream layer head -> stream (layer head)")
    top = max(1, flat.shape[1] // 10)
    found = ranking_stability(flat, top)
    names = np.argsort(-flat.mean(0), kind="stable")[: min(top, 5)]
    listed = ", ".join(f"L{i // scores.shape[2]}H{i % scores.shape[2]}" for i in names)
    return (
        f"{what}: top {top} heads ({listed}) overlap by {found.jaccard:.2f} (Jaccard, chance "
        f"{found.chance_jaccard:.2f}) and ranks correlate by {found.spearman:.2f} between resamples of streams"
    )


def moved_edges(
    metric: Callable[[Sequence[range]], Array], bands: Sequence[range], layers: int, what: str
) -> str:
    """How a metric of the bands, [stream], moves when each edge is moved by one layer."""
    first, second = bands[0].stop, bands[1].stop
    found: list[float] = []
    for a in (first - 1, first, first + 1):
        for b in (second - 1, second, second + 1):
            if 1 <= a <= b < layers:
                found.append(float(metric((range(a), range(a, b), range(b, layers))).mean()))
    return (
        f"{what}: between {min(found):.3g} and {max(found):.3g} with band edges moved by one layer"
    )
