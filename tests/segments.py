"""What tests do with segments: make a stream of them, place it, read it back as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hermes_lab.engine.cursor import Cursor
from hermes_lab.models import Adapter, Segment
from hermes_lab.tokens import Role

Frame = npt.NDArray[np.uint8]
QUESTION = "What is left?"


def frames_of(count: int, height: int = 50, width: int = 90) -> list[Frame]:
    """Frames of noise, the same at every call."""
    rng = np.random.default_rng(7)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]


def stream(adapter: Adapter, frames: list[Frame], times: list[float], chunk: int) -> list[Segment]:
    """Prefix, chunks of frames, question."""
    starts = range(0, len(frames), chunk)
    return [
        adapter.prefix(),
        *(adapter.encode(frames[i : i + chunk], times[i : i + chunk]) for i in starts),
        adapter.question(QUESTION),
    ]


def place(parts: Sequence[Segment]) -> Tensor:
    """Positions [axes, tokens] of consecutive segments of one layer."""
    cursor, placed = Cursor(), []
    for part in parts:
        positions, cursor = cursor.place(part)
        placed.append(positions)
    return torch.cat(placed, dim=1)


def placeholder_id(adapter: Adapter) -> int:
    """The id that stands for a visual token in the unmodified model's input."""
    config: Any = adapter.model.config
    video = adapter.family in ("llava_onevision", "qwen2_5_vl", "qwen3_vl")
    return int(config.video_token_id if video else config.image_token_id)


def input_ids(adapter: Adapter, parts: Sequence[Segment]) -> Tensor:
    """Ids [1, tokens] of the text, recognised by its embeddings, and the placeholder at visual tokens."""
    table = adapter.embed(torch.arange(adapter.text_config.vocab_size))
    ids: list[Tensor] = []
    for part in parts:
        nearest = torch.cdist(part.embeds, table).argmin(dim=1)
        nearest[torch.from_numpy(part.role == Role.VISUAL)] = placeholder_id(adapter)
        ids.append(nearest)
    return torch.cat(ids)[None]


def written(adapter: Adapter, parts: Sequence[Segment]) -> str:
    """The text that segments stand for, special tokens and placeholders included."""
    return str(adapter.tokenizer.decode(input_ids(adapter, parts)[0]))
