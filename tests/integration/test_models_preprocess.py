"""Frames become the pixels that transformers' own Pillow processors make of them.

Tolerance: like torchvision, and like Pillow before 13, frames are resampled in width first. Pillow 13 begins
with the height where that shrinks more, which on noise moves clipped pixels by up to 17 levels; so the
references here resample in two steps where the order matters. Beyond that, torch and Pillow resample 8-bit images with different fixed-point weights. Measured on noise, the
worst case for a filter, the largest difference is 2 of 255 levels and 98 % of the pixels agree exactly (Lanczos,
which is ours: 1 level). Without a resize the pixels are equal to rounding of float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as smart_resize_3
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from hermes_lab import models
from hermes_lab.errors import ModelError
from hermes_lab.models.preprocess import (
    BICUBIC,
    BILINEAR,
    LANCZOS,
    FrameSettings,
    centre_crop,
    fixed_size,
    pixel_budget_size,
    resize,
    stack_frames,
    temporal_patches,
)

pytestmark = pytest.mark.upstream

Frame = npt.NDArray[np.uint8]
LEVELS = 2  # largest difference allowed, of 255


def noise(height: int, width: int, seed: int = 0) -> Frame:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def assert_pixels(ours: torch.Tensor, theirs: torch.Tensor, std: tuple[float, ...]) -> None:
    """Equal within LEVELS after undoing the normalisation's scale, and mostly equal."""
    scale = torch.tensor(std)[:, None, None] * 255
    levels = ((ours - theirs) * scale).abs()
    assert levels.max() < LEVELS + 0.01
    assert (levels < 0.01).float().mean() > 0.85


@pytest.mark.parametrize("resample", [BILINEAR, BICUBIC, LANCZOS])
@pytest.mark.parametrize("size", [(37, 53), (240, 320), (300, 200), (90, 90)])
def test_resampling_is_pillows_width_first(resample: int, size: tuple[int, int]) -> None:
    frame = noise(120, 161)
    narrow = Image.fromarray(frame).resize((size[1], 120), resample)
    expected = np.asarray(narrow.resize(size[::-1], resample)).astype(int)
    ours = resize(stack_frames([frame]), *size, resample)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - expected).max() <= LEVELS
    assert (ours == expected).mean() > 0.95


SETTINGS = {
    "size": {"height": 56, "width": 56},
    "resample": BICUBIC,
    "image_mean": (0.48, 0.46, 0.41),
    "image_std": (0.27, 0.26, 0.28),
}


@pytest.mark.parametrize("shape", [(56, 56), (77, 100), (33, 140)])
@pytest.mark.parametrize(
    "processor", [SiglipImageProcessorPil, GotOcr2ImageProcessorPil, Gemma3ImageProcessorPil]
)
def test_square_frames(shape: tuple[int, int], processor: type) -> None:
    frame = noise(*shape)
    saved = {**SETTINGS, "crop_to_patches": False, "do_pan_and_scan": False}
    theirs = processor(**saved)(frame, return_tensors="pt")["pixel_values"][0]
    settings = FrameSettings.from_saved(saved, {})
    ours = settings.normalise(fixed_size(stack_frames([frame]), settings))[0]
    assert_pixels(ours, theirs, settings.std)
    if shape == (56, 56):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("shape", [(100, 77), (40, 30), (64, 64)])
def test_shortest_edge_and_centre_crop(shape: tuple[int, int]) -> None:
    frame = noise(*shape)
    saved = {
        **SETTINGS,
        "size": {"shortest_edge": 60},
        "do_center_crop": True,
        "crop_size": {"height": 56, "width": 48},
        "default_to_square": False,
    }
    theirs = SiglipImageProcessorPil(**saved)(frame, return_tensors="pt")["pixel_values"][0]
    settings = FrameSettings.from_saved(saved, {})
    ours = settings.normalise(fixed_size(stack_frames([frame]), settings))[0]
    assert_pixels(ours, theirs, settings.std)


@pytest.mark.parametrize("shape", [(5, 4), (4, 9), (3, 3), (10, 6)])
def test_centre_crop_pads_small_frames_as_transformers_does(shape: tuple[int, int]) -> None:
    from transformers.image_transforms import center_crop

    frame = noise(*shape).transpose(2, 0, 1)
    expected = center_crop(
        frame, (6, 7), data_format="channels_first", input_data_format="channels_first"
    )
    assert np.array_equal(centre_crop(torch.from_numpy(frame)[None], 6, 7)[0].numpy(), expected)


@pytest.mark.parametrize("shape", [(30, 40), (21, 47), (32, 32), (90, 150)])
@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_idefics3_frames(checkpoint, family: str, shape: tuple[int, int]) -> None:
    adapter = models.load(checkpoint(family))
    frame = noise(*shape)
    saved = adapter.image_settings["image"]
    edge = (
        32 if family == "smolvlm" else 64
    )  # the video size that SmolVLM saves, else the image size
    processor = Idefics3ImageProcessorPil(
        size={"longest_edge": edge},
        max_image_size=saved["max_image_size"],
        do_image_splitting=False,
        image_mean=saved["image_mean"],
        image_std=saved["image_std"],
    )
    theirs = processor(frame, return_tensors="pt")["pixel_values"][0, 0]
    assert_pixels(adapter._pixels([frame])[0], theirs, (0.5, 0.5, 0.5))


QWEN = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}


@pytest.mark.parametrize("shape", [(56, 84), (50, 120), (31, 200)])
def test_qwen_patches_of_pairs(shape: tuple[int, int]) -> None:
    size = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
    processor = Qwen2VLImageProcessorPil(size=size, **QWEN)
    frames = [noise(*shape, seed) for seed in range(3)]
    single = [processor(frame, return_tensors="pt")["pixel_values"] for frame in frames]
    split = [rows.reshape(len(rows), 3, 2, 14, 14) for rows in single]  # channel, time, row, col
    pairs = [(0, 1), (2, 2)]  # the odd last frame is repeated
    theirs = torch.cat([torch.stack([split[a][:, :, 0], split[b][:, :, 1]], 2) for a, b in pairs])

    height, width = pixel_budget_size(*shape, 28, size["shortest_edge"], size["longest_edge"])
    settings = FrameSettings.from_saved(
        {"image_mean": processor.image_mean, "image_std": processor.image_std}, {"size": size}
    )
    pixels = settings.normalise(resize(stack_frames(frames), height, width, BICUBIC))
    ours = temporal_patches(pixels, 14, 2, 2).reshape(-1, 3, 2, 14, 14)
    assert ours.shape == theirs.shape
    std = torch.tensor(settings.std)[:, None, None, None] * 255
    levels = ((ours - theirs) * std).abs()
    assert levels.max() < LEVELS + 0.01
    assert (levels < 0.01).float().mean() > 0.9


@given(
    height=st.integers(8, 3000),
    width=st.integers(8, 3000),
    low=st.integers(1, 200),
    more=st.integers(1, 2000),
)
def test_pixel_budget_is_smart_resize(height: int, width: int, low: int, more: int) -> None:
    bounds = low * 28 * 28, (low + more) * 28 * 28
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(ModelError, match="aspect ratio"):
            pixel_budget_size(height, width, 28, *bounds)
        return
    assert pixel_budget_size(height, width, 28, *bounds) == smart_resize(height, width, 28, *bounds)


@pytest.mark.parametrize("shape", [(60, 90), (720, 1280), (20, 70), (31, 33), (400, 100), (17, 17)])
def test_qwen3_frames_are_sized_like_a_video_of_two(checkpoint, shape: tuple[int, int]) -> None:
    adapter = models.load(checkpoint("qwen3_vl"))
    size = adapter.image_settings["video"]["size"]
    expected = smart_resize_3(
        num_frames=2,
        height=shape[0],
        width=shape[1],
        temporal_factor=2,
        factor=32,
        min_pixels=size["shortest_edge"],
        max_pixels=size["longest_edge"],
    )
    layout = adapter.frame_layout(*shape)
    assert (layout.rows * 32, layout.cols * 32) == expected


def test_bad_frames_and_settings_are_named() -> None:
    with pytest.raises(ModelError, match=r"shape \(4, 5\)"):
        stack_frames([np.zeros((4, 5), np.uint8)])
    with pytest.raises(ModelError, match="float32"):
        stack_frames([np.zeros((4, 5, 3), np.float32)])
    with pytest.raises(ModelError, match="filter 4"):
        resize(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 2, 2, 4)
    settings = FrameSettings.from_saved({**SETTINGS, "size": {"max_height": 3}}, {})
    with pytest.raises(ModelError, match="max_height"):
        fixed_size(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), settings)
