"""Attention reduced at capture: mass by frame and role, entropy, sinks, age - never a dense dump."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hermes_lab.cache import LayerState
from hermes_lab.snapshot import AttentionSummary, FloatArray, IntArray
from hermes_lab.tokens import Role, TokenTable


class Summarizer:
    """Collects one group of query rows over all layers."""

    def __init__(
        self,
        group: str,
        states: Callable[[int], LayerState],
        table: TokenTable,
        layers: int,
        query_heads: int,
        frames: int,
        now_s: float,
        keep_rows: Sequence[int] = (),
    ) -> None:
        self._group, self._states, self._table = group, states, table
        self._now_s = now_s
        self._keep_rows = frozenset(keep_rows)
        self._layers, self._heads, self._frames = layers, query_heads, max(frames, 1)
        self._mass: dict[int, FloatArray] = {}
        self._ids: dict[int, IntArray] = {}
        self._entropy = np.zeros((layers, query_heads), np.float32)
        self._own = np.zeros((layers, query_heads), np.float32)
        self._visible = np.zeros(layers, np.int64)
        self._rows: dict[int, FloatArray] = {}

    def add(self, layer: int, rows: Float[Tensor, "query_head row token"]) -> None:
        """Take one layer's rows; columns beyond the cached tokens are the queries' own tokens (role TEXT)."""
        cached = min(self._states(layer).tokens, rows.shape[-1])
        rows = rows.float()
        mass = rows.mean(1).cpu().numpy()
        self._mass[layer] = mass[:, :cached]
        self._own[layer] = mass[:, cached:].sum(1)
        self._ids[layer] = self._states(layer).ids[:, :cached].cpu().numpy()
        self._entropy[layer] = torch.special.entr(rows).sum(-1).mean(1).cpu().numpy()
        self._visible[layer] = rows.shape[-1]
        if layer in self._keep_rows:
            self._rows[layer] = rows[..., :cached].cpu().numpy()

    def summary(self) -> AttentionSummary:
        """What was collected."""
        shape = (self._layers, self._heads)
        frame_mass = np.zeros((*shape, self._frames), np.float32)
        role_mass = np.zeros((*shape, len(Role)), np.float32)
        sink = np.zeros(shape, np.float32)
        age = np.full(shape, np.nan, np.float32)
        for layers in _alike(self._ids):  # layers of one length are reduced together
            where = np.array(layers)
            mass = np.stack([self._mass[layer] for layer in layers])
            ids = np.stack([self._ids[layer] for layer in layers])
            ids = ids.repeat(self._heads // ids.shape[1], 1)
            known = np.maximum(ids, 0)
            frame = np.where(ids < 0, -1, self._table.column("frame")[known])
            role = np.where(ids < 0, int(Role.TEXT), self._table.column("role")[known])
            frame_mass[where] = _bin(mass, frame, self._frames)
            role_mass[where] = _bin(mass, role, len(Role))
            if mass.shape[-1]:
                sink[where] = mass[..., 0]
            age[where] = self._mean_age(mass, known)
        role_mass[..., Role.TEXT] += self._own
        return AttentionSummary(
            group=self._group,
            frame_mass=frame_mass,
            role_mass=role_mass,
            entropy=self._entropy,
            visible=self._visible,
            sink_share=sink,
            age_s=age,
            rows=self._rows,
            row_ids={layer: self._ids[layer] for layer in self._rows},
        )

    def _mean_age(self, mass: FloatArray, known: IntArray) -> FloatArray:
        time_s = self._table.column("time_s")[known]
        timed = ~np.isnan(time_s)
        weight = mass * timed
        total = weight.sum(-1)
        weighted = (weight * np.where(timed, self._now_s - time_s, 0.0)).sum(-1)
        return np.divide(weighted, total, out=np.full_like(total, np.nan), where=total > 0)


def _alike(ids: dict[int, IntArray]) -> list[list[int]]:
    """Layers grouped by the shape of their token sets."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for layer in sorted(ids):
        groups.setdefault(ids[layer].shape, []).append(layer)
    return list(groups.values())


def _bin(mass: FloatArray, index: IntArray, bins: int) -> FloatArray:
    """Sum mass over tokens of equal index (outside 0 to bins - 1: left out), [layer, query_head, bin]."""
    rows = mass.shape[0] * mass.shape[1]
    valid = (index >= 0) & (index < bins)
    row = np.arange(rows).reshape(*mass.shape[:2], 1)
    flat = np.where(valid, row * bins + index, rows * bins).ravel()
    summed = np.bincount(flat, weights=mass.ravel(), minlength=rows * bins + 1)
    return summed[:-1].reshape(*mass.shape[:2], bins).astype(np.float32)
