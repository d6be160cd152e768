"""What the Qwen-VL families share: frame sizes by pixel budget, pairs of frames, the patch layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from hermes_lab.models.base import FrameLayout
from hermes_lab.models.capture import Call, attention_received
from hermes_lab.models.conditional import ConditionalGeneration
from hermes_lab.models.preprocess import (
    BICUBIC,
    FrameSettings,
    pixel_budget_size,
    resize,
    stack_frames,
    temporal_patches,
)


@dataclass(frozen=True)
class Run:
    """Consecutive frames of one size: indices of its first and last frame, and its merged token grid."""

    first: int
    last: int
    rows: int
    cols: int

    def group_frames(self, per_group: int) -> list[tuple[int, int]]:
        """First and last frame of each temporal group."""
        starts = range(self.first, self.last + 1, per_group)
        return [(start, min(start + per_group - 1, self.last)) for start in starts]


class QwenVision(ConditionalGeneration):
    """Frames are paired into spatio-temporal patches; frames of different sizes never share a pair."""

    rotary_axes: ClassVar[int] = 3
    vision_name: ClassVar[str] = "visual"  # with its patch merger
    frame_defaults: ClassVar[dict[str, Any]] = {}
    fallback_template: ClassVar[str] = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
        "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    @cached_property
    def frame_settings(self) -> FrameSettings:
        """Pixel budget and normalisation of one frame."""
        return FrameSettings.from_saved(self._saved_video_settings(), self.frame_defaults)

    def _saved_video_settings(self) -> dict[str, Any]:
        """Settings for video frames; those for still images lend all but their far larger pixel budget.

        `save_pretrained` writes the budget of still images into the settings for video, too: frames would then have
        other sizes after a fine-tuning than before.
        """
        image = dict(self.image_settings.get("image") or {})
        video = dict(self.image_settings.get("video") or {})
        if not video:
            image.pop("size", None)
            return image
        video["size"] = self._budget(video)
        most = self.frame_defaults["size"]["longest_edge"]
        if video["size"] == self._budget(image) and video["size"]["longest_edge"] > most:
            del video["size"]
        return video

    def _budget(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Smallest and largest area that settings name, in today's words or in older ones."""
        older = {
            "shortest_edge": settings.get("min_pixels"),
            "longest_edge": settings.get("max_pixels"),
        }
        budget = {**self.frame_defaults["size"], **(settings.get("size") or {})}
        return budget | {edge: n for edge, n in older.items() if n is not None}

    @property
    def _geometry(self) -> tuple[int, int, int]:
        """Patch size in pixels, patches merged per token and axis, frames per group."""
        config = self._inner.config.vision_config
        return (
            int(config.patch_size),
            int(config.spatial_merge_size),
            int(config.temporal_patch_size),
        )

    def pixel_bounds(self) -> tuple[float, float]:
        """Smallest and largest area of a frame, in pixels."""
        size = self.frame_settings.size
        return size["shortest_edge"], size["longest_edge"]

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """Pixels that a frame of this size is resized to."""
        patch, merge, _ = self._geometry
        return pixel_budget_size(height, width, patch * merge, *self.pixel_bounds())

    def frame_layout(self, height: int, width: int) -> FrameLayout:
        """The merged token grid of a frame of this size."""
        patch, merge, per_group = self._geometry
        tall, wide = self.frame_size(height, width)
        return FrameLayout(
            rows=tall // (patch * merge), cols=wide // (patch * merge), frames_per_group=per_group
        )

    def _patches(
        self, frames: Sequence[npt.NDArray[np.uint8]]
    ) -> tuple[Float[Tensor, "patches values"], Int[Tensor, "runs 3"], list[Run]]:
        """Pixel patches of all frames, the (t, h, w) patch grid of each run, and the runs."""
        patch, merge, per_group = self._geometry
        pieces: list[Tensor] = []
        grids: list[tuple[int, int, int]] = []
        runs: list[Run] = []
        for _, group in groupby(range(len(frames)), key=lambda i: frames[i].shape):
            indices = list(group)
            pixels = stack_frames([frames[i] for i in indices])
            height, width = self.frame_size(*(int(n) for n in pixels.shape[-2:]))
            pixels = resize(pixels, height, width, self.frame_settings.resample)
            pieces.append(
                temporal_patches(self.frame_settings.normalise(pixels), patch, merge, per_group)
            )
            grids.append((-(-len(indices) // per_group), height // patch, width // patch))
            cell = patch * merge
            runs.append(Run(indices[0], indices[-1], height // cell, width // cell))
        return torch.cat(pieces), torch.tensor(grids), runs

    def _received(self, call: Call) -> Float[Tensor, " patches"]:
        """Attention that each patch receives in the tower's last layer, within its group of frames."""
        attention = cast(Any, call.module)
        query, key, _ = rearrange(
            attention.qkv(call.hidden),
            "patch (part head dim) -> part patch head dim",
            part=3,
            head=attention.num_heads,
        )
        query, key = apply_rotary_pos_emb_vision(query, key, *call.kwargs["position_embeddings"])
        bounds = call.kwargs["cu_seqlens"].tolist()
        return torch.cat(
            [
                attention_received(
                    query[a:b].transpose(0, 1), key[a:b].transpose(0, 1), attention.scaling
                )
                for a, b in pairwise(bounds)
            ]
        )


def bicubic_defaults(
    min_pixels: int, max_pixels: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    """Settings of a family's video processor for what a checkpoint does not say."""
    return {
        "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
        "resample": BICUBIC,
        "image_mean": mean,
        "image_std": std,
    }
