"""What `encode` returns besides embeddings, and that chunks and frame sizes do not change the tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from hermes_lab import models
from hermes_lab.errors import ModelError
from hermes_lab.models import Adapter
from hermes_lab.tokens import Role
from tests.checkpoints import FAMILIES, VARIANTS
from tests.segments import frames_of

pytestmark = pytest.mark.upstream

EVERY = [*FAMILIES, *VARIANTS]
PAIRED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
Checkpoint = Callable[..., Path]


def visual(adapter: Adapter, *args: Any, **kwargs: Any) -> Tensor:
    segment = adapter.encode(*args, **kwargs)
    return segment.embeds[torch.from_numpy(segment.role == Role.VISUAL)]


@pytest.mark.parametrize("family", EVERY)
def test_chunks_give_the_tokens_of_the_whole_video(checkpoint: Checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    frames, times = frames_of(8), [float(i) for i in range(8)]
    whole = visual(adapter, frames, times)
    chunk = 2 if family in PAIRED else 3
    starts = range(0, 8, chunk)
    parts = [visual(adapter, frames[i : i + chunk], times[i : i + chunk]) for i in starts]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-5)


@pytest.mark.parametrize("family", EVERY)
def test_frames_of_several_sizes_in_one_chunk(checkpoint: Checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    frames = [*frames_of(2), *frames_of(2, 120, 60), *frames_of(2)]
    times = [float(i) for i in range(6)]
    segment = adapter.encode(frames, times, want_saliency=True)
    apart = [visual(adapter, frames[i : i + 2], times[i : i + 2]) for i in (0, 2, 4)]
    seen = segment.role == Role.VISUAL
    assert torch.allclose(segment.embeds[torch.from_numpy(seen)], torch.cat(apart), atol=1e-5)
    assert len(segment.features) == len(segment.saliency) == seen.sum()
    tall, flat = adapter.frame_layout(120, 60), adapter.frame_layout(50, 90)
    assert segment.row[segment.frame == 3].max() == tall.rows - 1
    assert segment.col[segment.frame == 5].max() == flat.cols - 1


def mean_over_windows(patches: Tensor, side: int, cells: int) -> Tensor:
    """[n, side*side, width] patches to [n*cells*cells, width], each cell the mean of what it covers."""
    rows = []
    for image in patches.unflatten(1, (side, side)):
        for r in range(cells):
            for c in range(cells):
                top, bottom = r * side // cells, -(-(r + 1) * side // cells)
                left, right = c * side // cells, -(-(c + 1) * side // cells)
                rows.append(image[top:bottom, left:right].flatten(0, 1).mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("family", [f for f in EVERY if f not in PAIRED])
def test_features_are_the_towers_means_per_token(checkpoint: Checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    frames = frames_of(3)
    tower: Any = adapter.vision
    with torch.no_grad():
        output = tower(adapter._pixels(frames), output_hidden_states=True, return_dict=True)
    # LLaVA-OneVision projects a layer's output, the others what the tower's last norm makes of it
    patches = output.hidden_states[-1] if family == "llava_onevision" else output.last_hidden_state
    side = adapter.patch_side
    expected = mean_over_windows(patches[:, -(side**2) :], side, adapter.frame_layout(1, 1).rows)
    features = adapter.encode(frames, [0.0, 1.0, 2.0]).features
    assert torch.allclose(features, expected, atol=1e-5)


class MeanMerger(nn.Module):
    """Stands in for a patch merger: the mean of each token's four patches."""

    def forward(self, patches: Tensor) -> Tensor:
        return patches.view(-1, 4, patches.shape[-1]).mean(1)


@pytest.mark.parametrize("family", PAIRED)
def test_qwen_features_are_in_token_order(checkpoint: Checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    frames = frames_of(4, 84, 112)  # 3x4 tokens: more than one attention window of Qwen2.5-VL
    features = adapter.encode(frames, [0.0, 1.0, 2.0, 3.0]).features
    patches, grid, _ = adapter._patches(frames)
    tower: Any = adapter.vision
    tower.merger = MeanMerger()
    with torch.no_grad():
        expected = tower(patches, grid_thw=grid).pooler_output
    assert torch.allclose(features, expected, atol=1e-5)
    assert features.shape[0] == 2 * adapter.frame_layout(84, 112).visual_tokens


SEEN: list[Tensor] = []


def spy(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *mask: Any, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """Eager attention that keeps what each key received: the independent reference."""
    weights = torch.softmax(query @ key.transpose(-1, -2) * kwargs["scaling"], dim=-1)
    SEEN.append(weights.mean(dim=(1, 2)))
    return (weights @ value).transpose(1, 2), weights


AttentionInterface.register("test_saliency_spy", spy)


@pytest.mark.parametrize("family", EVERY)
def test_saliency_is_the_attention_received_in_the_last_layer(
    checkpoint: Checkpoint, family: str
) -> None:
    adapter = models.load(checkpoint(family))
    frames, times = frames_of(4, 56, 56), [0.0, 1.0, 2.0, 3.0]
    saliency = adapter.encode(frames, times, want_saliency=True).saliency
    assert adapter.encode(frames, times).saliency is None

    adapter.vision.config._attn_implementation = "test_saliency_spy"
    SEEN.clear()
    adapter.encode(frames, times)
    if family in PAIRED:  # one call per pair; one window, so that no order is involved
        received = torch.cat(SEEN[-2:], dim=1)
        expected = received.view(-1, 4).mean(1)
    else:
        side = adapter.patch_side
        received = SEEN[-1][:, -(side**2) :, None]
        expected = mean_over_windows(received, side, adapter.frame_layout(1, 1).rows)[:, 0]
    assert torch.allclose(saliency, expected, atol=1e-6)
    assert saliency.std() > 1e-5


@pytest.mark.parametrize("family", EVERY)
def test_half_precision_and_no_graph(checkpoint: Checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family), dtype="bfloat16")
    segment = adapter.encode(frames_of(2), [0.0, 1.0], want_saliency=True)
    assert segment.embeds.dtype == torch.bfloat16
    assert all(layer.dtype == torch.bfloat16 for layer in segment.deepstack)
    assert segment.features.dtype == segment.saliency.dtype == torch.float32
    assert not segment.embeds.requires_grad
    assert not adapter.question("Hm?").embeds.requires_grad


def test_deepstack_is_zero_on_text_and_as_deep_as_the_model_says(checkpoint: Checkpoint) -> None:
    adapter = models.load(checkpoint("qwen3_vl"))
    segment = adapter.encode(frames_of(4), [0.0, 1.0, 2.0, 3.0])
    assert len(segment.deepstack) == 2
    seen = torch.from_numpy(segment.role == Role.VISUAL)
    for layer in segment.deepstack:
        assert layer.shape == segment.embeds.shape
        assert not layer[~seen].any()
        assert layer[seen].any(dim=1).all()
    assert adapter.forward_kwargs(adapter.question("Hm?")) == {}


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_bad_chunks_are_named(checkpoint: Checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    with pytest.raises(ModelError, match="0 frames"):
        adapter.encode([], [])
    with pytest.raises(ModelError, match="2 frames came with 1 times"):
        adapter.encode(frames_of(2), [0.0])
    with pytest.raises(ModelError, match="RGB uint8"):
        adapter.encode([np.zeros((40, 40), np.uint8)], [0.0])


def test_settings_that_do_not_fit_the_tower_are_named(checkpoint: Checkpoint) -> None:
    adapter = models.load(checkpoint("llava_onevision"))
    adapter.image_settings["video"]["size"] = {"height": 48, "width": 48}
    with pytest.raises(ModelError, match="48x48 pixels, but its vision tower takes 40x40"):
        adapter.encode(frames_of(1), [0.0])


def test_sliding_windows_bound_what_can_be_kept(checkpoint: Checkpoint) -> None:
    adapter = models.load(checkpoint("gemma3"))
    adapter.check_streamable(1024)
    with pytest.raises(ModelError, match="3 of its 4 layers attend to the last 1024 tokens only"):
        adapter.check_streamable(1025)
    with pytest.raises(ModelError, match="4096 tokens"):
        adapter.check_streamable()


@pytest.mark.parametrize("family", [f for f in EVERY if f != "gemma3"])
def test_every_other_family_streams_without_bounds(checkpoint: Checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    adapter.check_streamable()
    adapter.check_streamable(10**9)
