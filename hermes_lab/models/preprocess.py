"""Frames to pixel tensors, in torch alone, from the settings that a checkpoint saved for its processor.

The resampling runs on uint8 tensors, so that it rounds between the two passes as Pillow does: the results
are within 2 of 255 levels of the `...ImageProcessorPil` classes of transformers (tested frame by frame).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from hermes_lab.errors import ModelError

BILINEAR, BICUBIC, LANCZOS = 2, 3, 1  # Pillow's codes, which checkpoints save as `resample`
_LANCZOS_LOBES = 3


@dataclass(frozen=True)
class FrameSettings:
    """How one family's processor treats a frame, without the geometry that only the adapter knows.

    Attributes:
        size: the saved `size` mapping (height and width, shortest_edge, longest_edge ...).
        crop: height and width of the centre crop, or None.
        resample: Pillow's code of the filter.
        rescale: factor that takes 0-255 to 0-1 (1.0 where the processor does not rescale).
        mean, std: per-channel normalisation.
    """

    size: Mapping[str, int]
    crop: tuple[int, int] | None
    resample: int
    rescale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any], defaults: Mapping[str, Any]) -> FrameSettings:
        """Read a saved processor configuration; what it leaves out comes from the family's `defaults`."""
        values = {**defaults, **{k: v for k, v in saved.items() if v is not None}}
        size = values["size"]
        if isinstance(size, int):
            size = {"shortest_edge": size}
        crop = None
        if values.get("do_center_crop"):
            raw = values.get("crop_size") or size
            if isinstance(raw, int):
                raw = {"height": raw, "width": raw}
            crop = (int(raw["height"]), int(raw["width"]))
        normalise = values.get("do_normalize", True)
        return cls(
            size={str(k): int(v) for k, v in size.items() if v is not None},
            crop=crop,
            resample=int(values.get("resample", BICUBIC)),
            rescale=float(values.get("rescale_factor", 1 / 255))
            if values.get("do_rescale", True)
            else 1.0,
            mean=tuple(values["image_mean"]) if normalise else (0.0, 0.0, 0.0),
            std=tuple(values["image_std"]) if normalise else (1.0, 1.0, 1.0),
        )

    def normalise(self, frames: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """Rescale and normalise the channels, in float32."""
        mean = torch.tensor(self.mean, dtype=torch.float32)[:, None, None]
        std = torch.tensor(self.std, dtype=torch.float32)[:, None, None]
        return (frames.to(torch.float32) * self.rescale - mean) / std


def check_frames(
    frames: Sequence[npt.NDArray[np.uint8]], times_s: Sequence[float]
) -> tuple[float, ...]:
    """The times of the frames, one each.

    Raises:
        ModelError: no frames, or more or fewer times than frames.
    """
    if not len(frames) or len(frames) != len(times_s):
        raise ModelError(
            f"A chunk of {len(frames)} frames came with {len(times_s)} times; give at least one frame, and "
            "one time for each."
        )
    return tuple(float(time) for time in times_s)


def stack_frames(frames: Sequence[npt.NDArray[np.uint8]]) -> UInt8[Tensor, "n 3 h w"]:
    """Frames of one size, [H, W, 3] each, as one channels-last tensor in torch's axis order.

    Raises:
        ModelError: a frame is not an RGB uint8 image.
    """
    for frame in frames:
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or 0 in frame.shape:
            raise ModelError(
                f"A frame has shape {tuple(frame.shape)} and dtype {frame.dtype}; frames must be RGB uint8 "
                "arrays of shape [height, width, 3]."
            )
    return rearrange(torch.from_numpy(np.stack(frames)), "n h w channel -> n channel h w")


def resize(
    frames: UInt8[Tensor, "n 3 h w"], height: int, width: int, resample: int
) -> UInt8[Tensor, "n 3 height width"]:
    """Resample with antialias, rounding to 8 bits after each pass."""
    if frames.shape[-2:] == (height, width):
        return frames
    if resample == LANCZOS:
        return _lanczos(frames, height, width)
    mode = {BILINEAR: "bilinear", BICUBIC: "bicubic"}.get(resample)
    if mode is None:
        raise ModelError(
            f"The checkpoint's processor resamples frames with filter {resample}, which is not supported "
            f"(supported: {LANCZOS} Lanczos, {BILINEAR} bilinear, {BICUBIC} bicubic)."
        )
    return F.interpolate(frames, (height, width), mode=mode, antialias=True)


def _lanczos(
    frames: UInt8[Tensor, "n 3 h w"], height: int, width: int
) -> UInt8[Tensor, "n 3 oh ow"]:
    """Separable Lanczos-3, which torch lacks: rows of weights times pixels, width first."""
    across = _lanczos_weights(frames.shape[-1], width)
    down = _lanczos_weights(frames.shape[-2], height)
    narrow = (frames.to(torch.float32) @ across.T).round().clamp(0, 255)
    return (down @ narrow).round().clamp(0, 255).to(torch.uint8)


def _lanczos_weights(size: int, target: int) -> Float[Tensor, "target size"]:
    scale = size / target
    stretch = max(scale, 1.0)  # the kernel widens when shrinking: antialias
    centre = (torch.arange(target, dtype=torch.float64) + 0.5) * scale
    x = (torch.arange(size, dtype=torch.float64) + 0.5 - centre[:, None]) / stretch
    weights = torch.sinc(x) * torch.sinc(x / _LANCZOS_LOBES) * (x.abs() < _LANCZOS_LOBES)
    return (weights / weights.sum(dim=1, keepdim=True)).to(torch.float32)


def centre_crop(
    frames: UInt8[Tensor, "n 3 h w"], height: int, width: int
) -> UInt8[Tensor, "n 3 oh ow"]:
    """Cut the middle out; a frame smaller than the crop is padded with black around it."""
    missing_h, missing_w = max(height - frames.shape[-2], 0), max(width - frames.shape[-1], 0)
    if missing_h or missing_w:
        top, left = (missing_h + 1) // 2, (missing_w + 1) // 2
        frames = F.pad(frames, (left, missing_w - left, top, missing_h - top))
    top = (frames.shape[-2] - height) // 2
    left = (frames.shape[-1] - width) // 2
    return frames[..., top : top + height, left : left + width]


def shortest_edge(height: int, width: int, edge: int) -> tuple[int, int]:
    """The size with the given shorter side and the same aspect ratio (fractions cut off)."""
    if height <= width:
        return edge, int(edge * width / height)
    return int(edge * height / width), edge


def longest_edge(height: int, width: int, edge: int) -> tuple[int, int]:
    """The size with the given longer side and the same aspect ratio, the shorter side made even."""
    aspect = (
        width / height
    )  # divided in this order so that fractions are cut off as in the processors
    if width >= height:
        shorter = int(edge / aspect)
        return max(shorter + shorter % 2, 1), edge
    shorter = int(edge * aspect)
    return edge, max(shorter + shorter % 2, 1)


def fixed_size(
    frames: UInt8[Tensor, "n 3 h w"], settings: FrameSettings
) -> UInt8[Tensor, "n 3 oh ow"]:
    """Resize to the saved height and width (or shorter edge), then crop if the settings say so."""
    size = settings.size
    if "height" in size and "width" in size:
        target = (size["height"], size["width"])
    elif "shortest_edge" in size:
        target = shortest_edge(int(frames.shape[-2]), int(frames.shape[-1]), size["shortest_edge"])
    else:
        raise ModelError(
            f"The checkpoint's processor settings give the frame size as {dict(size)}; expected height and "
            "width, or shortest_edge."
        )
    frames = resize(frames, *target, settings.resample)
    return centre_crop(frames, *settings.crop) if settings.crop else frames


def pixel_budget_size(
    height: int, width: int, multiple: int, min_pixels: float, max_pixels: float
) -> tuple[int, int]:
    """The Qwen-VL frame size: sides that are multiples of `multiple`, area within two bounds, aspect kept.

    Each side is rounded to the nearest multiple; where the area then leaves the bounds, both sides are
    scaled to the bound first and rounded towards its inside.

    Raises:
        ModelError: an aspect ratio above 200, which the family refuses.
    """
    if max(height, width) > 200 * min(height, width):
        raise ModelError(
            f"A frame of {width}x{height} pixels has an aspect ratio above 200, which this model family "
            "cannot encode."
        )
    tall, wide = round(height / multiple), round(width / multiple)
    if tall * wide * multiple**2 > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        tall = max(1, math.floor(height / shrink / multiple))
        wide = max(1, math.floor(width / shrink / multiple))
    elif tall * wide * multiple**2 < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        tall, wide = math.ceil(height * grow / multiple), math.ceil(width * grow / multiple)
    return tall * multiple, wide * multiple


def temporal_patches(
    frames: Float[Tensor, "n 3 h w"], patch: int, merge: int, frames_per_patch: int
) -> Float[Tensor, "patches values"]:
    """The Qwen-VL patch layout: groups of frames cut into spatio-temporal patches.

    A last group that is not full repeats its last frame. Patches are ordered by group, then by cell of the
    merged grid, then inside the cell, so that `merge**2` consecutive patches become one token; the values
    of a patch are ordered channel, frame, row, column.
    """
    if missing := -frames.shape[0] % frames_per_patch:
        frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
    return rearrange(
        frames,
        "(group frame) channel (row in_row y) (col in_col x) -> (group row col in_row in_col) (channel frame y x)",
        frame=frames_per_patch, in_row=merge, in_col=merge, y=patch, x=patch,
    )  # fmt: skip
