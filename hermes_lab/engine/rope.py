"""Rotary positions: the model's own tables, exact re-rotation of cached keys, and compaction.

Tables always come from the model's rotary module, so scaling variants and (interleaved) M-RoPE come for
free. Keys are moved from old to new positions by combining the fp32 tables of both, which undoes exactly
the rotation that was applied; asking the module for the table of the difference would be off by the
rounding of large angles.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.engine import upstream
from hermes_lab.engine.upstream import Tables
from hermes_lab.models.base import Adapter


class Rope:
    """Rotary tables of one model, by layer where layers differ (Gemma 3).

    Attributes:
        axes: rotary axes: 1, or 3 for M-RoPE.
        limit: positions within which the tables are those of the model; None: all.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.axes = adapter.rotary_axes
        fixed = upstream.fixed_rotary(adapter.rotary)
        self._module, self.limit = fixed.module, fixed.limit
        kinds = cast("list[str] | None", getattr(adapter.text_config, "layer_types", None))
        typed = upstream.takes_layer_type(self._module) and kinds
        self._kinds: list[str | None] = list(kinds or ()) if typed else [None] * len(adapter.layers)
        self._scales: dict[str | None, float] = {}

    def kind(self, layer: int) -> str | None:
        """Layers of one kind share their tables."""
        return self._kinds[layer]

    def tables(
        self, positions: Int[Tensor, "axis token"], layer: int, dtype: torch.dtype = torch.float32
    ) -> Tables:
        """Cosines and sines of the given positions, as the model's attention expects them."""
        return upstream.rotary_tables(self._module, positions, dtype, self._kinds[layer])

    def _scale(self, layer: int, device: torch.device) -> float:
        """What a scaled variant (YaRN, LongRoPE) multiplies its tables by: the cosine of position 0."""
        kind = self._kinds[layer]
        if kind not in self._scales:
            origin = torch.zeros(self.axes, 1, dtype=torch.long, device=device)
            self._scales[kind] = float(self.tables(origin, layer)[0].max())
        return self._scales[kind]

    def rotate(
        self,
        keys: Float[Tensor, "kv_head token dim"],
        old: Int[Tensor, "head axis token"],
        new: Int[Tensor, "head axis new"],
        layer: int,
    ) -> Float[Tensor, "kv_head token dim"]:
        """Move keys that were rotated to `old` positions to `new` ones (HERMES, App. E), in fp32.

        `head` is 1 (all KV heads share positions) or the number of KV heads; `new` has one position for each
        token, or a single one to which all of them go.
        """
        heads, _, tokens = old.shape
        if tokens == 0:
            return keys
        both = torch.cat([_flat(old), _flat(new)], 1)
        cos, sin = (t[0].float().to(keys.device) for t in self.tables(both, layer))
        cos_old, cos_new = (
            t.view(heads, -1, t.shape[-1]) for t in cos.tensor_split([heads * tokens])
        )
        sin_old, sin_new = (
            t.view(heads, -1, t.shape[-1]) for t in sin.tensor_split([heads * tokens])
        )
        cos_delta = cos_new * cos_old + sin_new * sin_old
        sin_delta = sin_new * cos_old - cos_new * sin_old
        # scaled rotary variants (YaRN) multiply both tables: divide once so that keys stay scaled once
        scale = self._scale(layer, old.device) ** 2
        if scale != 1.0:
            cos_delta, sin_delta = cos_delta / scale, sin_delta / scale
        return upstream.turn(keys, cos_delta, sin_delta).to(keys.dtype)


def _flat(positions: Int[Tensor, "head axis token"]) -> Int[Tensor, "axis head_token"]:
    return positions.transpose(0, 1).reshape(positions.shape[1], -1)


def compact_ranks(
    positions: Int[Tensor, "head axis token"], protected: int
) -> Int[Tensor, "head axis token"]:
    """Replace every coordinate by its rank among the kept ones, axis by axis (HERMES, App. E).

    The first `protected` tokens (the system prefix) stay where they are; the others start right after.
    With one axis this is left compaction: prefix + rank.
    """
    if positions.shape[-1] <= protected:
        return positions
    start = int(positions[..., :protected].max()) + 1 if protected else 0
    video = positions[..., protected:]
    ranked = torch.stack(
        [
            torch.stack([torch.unique(axis, return_inverse=True)[1] for axis in head])
            for head in video
        ]
    )
    return torch.cat([positions[..., :protected], ranked + start], -1)


def compact_contiguous(
    positions: Int[Tensor, "head axis token"], protected: int
) -> Int[Tensor, "head axis token"]:
    """Number the kept tokens one after the other on every axis, like text (StreamingLLM, ReKV)."""
    start = int(positions[..., :protected].max()) + 1 if protected else 0
    count = positions.shape[-1] - protected
    if count <= 0:
        return positions
    line = torch.arange(start, start + count, device=positions.device)
    return torch.cat([positions[..., :protected], line.expand(*positions.shape[:2], count)], -1)
