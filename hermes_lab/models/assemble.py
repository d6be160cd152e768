"""Text runs and frame grids put together into one segment, with their rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.models.base import Adapter
from hermes_lab.segment import Segment
from hermes_lab.tokens import Role


@dataclass(frozen=True)
class TextRun:
    """Token ids of text, and the frame that it accompanies (-1: none)."""

    ids: Int[Tensor, " tokens"]
    role: Role
    frame: int = -1


@dataclass(frozen=True)
class GridRun:
    """Visual tokens of one frame (or group of frames) in raster order."""

    embeds: Float[Tensor, "cells hidden"]
    cols: int
    frame: int


def assemble(adapter: Adapter, runs: Sequence[TextRun | GridRun], **extra: Any) -> Segment:
    """Put runs in order, anchored at the next free position.

    Text advances all rotary axes by one per token. On one axis so does a grid; on three, all cells of a grid
    share their t, rows and columns count from the start of the grid, and what follows starts behind the
    longer side (M-RoPE of Qwen2-VL for still images and, with timestamps between the frames, of Qwen3-VL).
    """
    ids = torch.cat(
        [torch.empty(0, dtype=torch.long), *(r.ids for r in runs if isinstance(r, TextRun))]
    )
    words = adapter.embed(ids)
    embeds: list[Tensor] = [words[:0]]
    columns: list[np.ndarray] = [np.zeros((4, 0), np.int64)]  # role, frame, row, col
    rel: list[Tensor] = [torch.zeros(adapter.rotary_axes, 0, dtype=torch.long)]
    start = used = 0
    for run in runs:
        if isinstance(run, TextRun):
            count = len(run.ids)
            embeds.append(words[used : used + count])
            used += count
            columns.append(_columns(count, run.role, run.frame, -1, -1))
            rel.append((start + torch.arange(count)).expand(adapter.rotary_axes, -1))
            start += count
            continue
        count = run.embeds.shape[0]
        embeds.append(run.embeds.to(adapter.device, adapter.dtype))
        row, col = np.divmod(np.arange(count), run.cols)
        columns.append(_columns(count, Role.VISUAL, run.frame, row, col))
        if adapter.rotary_axes == 1:
            rel.append((start + torch.arange(count))[None])
            start += count
        else:
            place = np.stack([np.zeros_like(row), row, col])
            rel.append(start + torch.from_numpy(place))
            start += max(count // run.cols, run.cols)
    role, frame, rows, cols = np.concatenate(columns, axis=1)
    return Segment(
        embeds=torch.cat(embeds),
        role=role.astype(np.int8),
        frame=frame.astype(np.int32),
        row=rows.astype(np.int16),
        col=cols.astype(np.int16),
        rel=torch.cat(rel, dim=1),
        **extra,
    )


def _columns(count: int, *values: Any) -> np.ndarray:
    return np.stack([np.broadcast_to(np.asarray(value, np.int64), (count,)) for value in values])
