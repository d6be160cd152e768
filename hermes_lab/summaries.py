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
        shape = (layers, query_heads)
        self._frame_mass = np.zeros((*shape, max(frames, 1)), np.float32)
        self._role_mass = np.zeros((*shape, len(Role)), np.float32)
        self._entropy = np.zeros(shape, np.float32)
        self._sink = np.zeros(shape, np.float32)
        self._age = np.full(shape, np.nan, np.float32)
        self._visible = np.zeros(layers, np.int64)
        self._rows: dict[int, FloatArray] = {}
        self._row_ids: dict[int, IntArray] = {}

    def add(self, layer: int, rows: Float[Tensor, "query_head row token"]) -> None:
        """Take one layer's rows; columns beyond the cached tokens are the queries' own tokens (role TEXT)."""
        state = self._states(layer)
        cached = min(state.tokens, rows.shape[-1])
        ids = state.ids[:, :cached].cpu().numpy()
        mass = rows.mean(1).float().cpu()
        heads = mass.shape[0]
        repeat = heads // ids.shape[0]
        known = np.maximum(ids, 0)
        frame = np.where(ids < 0, -1, self._table.column("frame")[known])
        role = np.where(ids < 0, int(Role.TEXT), self._table.column("role")[known])
        time_s = self._table.column("time_s")[known].astype(np.float64)
        video = mass[:, :cached]
        self._frame_mass[layer] = _bin(video, frame, repeat, self._frame_mass.shape[2])
        self._role_mass[layer] = _bin(video, role, repeat, len(Role))
        self._role_mass[layer, :, Role.TEXT] += mass[:, cached:].sum(1).numpy()
        self._entropy[layer] = torch.special.entr(rows.float()).sum(-1).mean(1).cpu().numpy()
        self._sink[layer] = mass[:, 0].numpy()
        self._visible[layer] = rows.shape[-1]
        age = np.where(np.isnan(time_s), 0.0, self._now_s - time_s).repeat(repeat, 0)
        weight = video.numpy() * ~np.isnan(time_s).repeat(repeat, 0)
        total = weight.sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            self._age[layer] = np.where(total > 0, (weight * age).sum(1) / total, np.nan)
        if layer in self._keep_rows:
            self._rows[layer] = rows[..., :cached].float().cpu().numpy()
            self._row_ids[layer] = ids

    def summary(self) -> AttentionSummary:
        """What was collected."""
        return AttentionSummary(
            group=self._group,
            frame_mass=self._frame_mass,
            role_mass=self._role_mass,
            entropy=self._entropy,
            visible=self._visible,
            sink_share=self._sink,
            age_s=self._age,
            rows=self._rows,
            row_ids=self._row_ids,
        )


def _bin(
    mass: Float[Tensor, "query_head token"], index: IntArray, repeat: int, bins: int
) -> FloatArray:
    """Sum mass over tokens of equal index (negative: left out), [query_head, bin]."""
    where = torch.as_tensor(index.astype(np.int64)).repeat_interleave(repeat, 0)
    out = torch.zeros(mass.shape[0], bins + 1)
    out.scatter_add_(1, torch.where((where >= 0) & (where < bins), where, bins), mass)
    return out[:, :bins].numpy()
