"""Segments, placed by the anchor rules, give the logits and positions of the unmodified model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hermes_lab import models
from hermes_lab.engine.cursor import Cursor
from hermes_lab.models import Adapter, Segment
from tests.checkpoints import FAMILIES, VARIANTS
from tests.segments import QUESTION, frames_of, input_ids, place, stream

pytestmark = pytest.mark.upstream

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def decoder_logits(adapter: Adapter, parts: Sequence[Segment]) -> Tensor:
    """Logits [tokens, vocabulary] of the bare decoder and head on the joined segments."""
    positions = place(parts)
    layers = max(len(part.deepstack) for part in parts)
    joined = Segment(
        embeds=torch.cat([p.embeds for p in parts]),
        role=np.concatenate([p.role for p in parts]),
        frame=np.concatenate([p.frame for p in parts]),
        row=np.concatenate([p.row for p in parts]),
        col=np.concatenate([p.col for p in parts]),
        rel=positions,
        deepstack=tuple(
            torch.cat(
                [p.deepstack[i] if p.deepstack else torch.zeros_like(p.embeds) for p in parts]
            )
            for i in range(layers)
        ),
    )
    with torch.no_grad():
        output = adapter.decoder(
            inputs_embeds=joined.embeds[None],
            position_ids=positions if adapter.rotary_axes == 1 else positions[:, None],
            use_cache=False,
            **adapter.forward_kwargs(joined),
        )
        return adapter.head(output.last_hidden_state)[0]


def reference_logits(
    adapter: Adapter, ids: Tensor, frames: list[np.ndarray], times: list[float]
) -> Tensor:
    """Logits of the whole unmodified model on the pixels of the whole video."""
    model: Any = adapter.model
    family = model.config.model_type
    inputs: dict[str, Any] = {"input_ids": ids}
    if family in QWEN:
        patches, grid, _ = adapter._patches(frames)
        inputs |= {
            "pixel_values_videos": patches,
            "video_grid_thw": grid,
            "mm_token_type_ids": 2 * (ids == model.config.video_token_id).int(),
        }
        if family == "qwen2_5_vl":
            inputs["second_per_grid_ts"] = torch.tensor([times[2] - times[0]])
    elif family == "llava_onevision":  # by hand, to leave out the image_newline that ends a video
        pixels = adapter._pixels(frames)[None]
        visual = model.model.get_video_features(pixels).pooler_output[0, :-1]
        embeds = model.get_input_embeddings()(ids)
        where = (ids == model.config.video_token_id)[..., None]
        inputs = {"inputs_embeds": embeds.masked_scatter(where, visual)}
    elif family in ("idefics3", "smolvlm"):
        inputs["pixel_values"] = adapter._pixels(frames)[None]
    else:
        inputs["pixel_values"] = adapter._pixels(frames)
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits[0]


@pytest.mark.parametrize("family", [*FAMILIES, *VARIANTS])
def test_streamed_segments_give_the_logits_of_the_whole_model(checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    frames, times = frames_of(6), [i / 8 for i in range(6)]
    parts = stream(adapter, frames, times, chunk=2)
    ids = input_ids(adapter, parts)
    logits = decoder_logits(adapter, parts)
    expected = reference_logits(adapter, ids, frames, times)
    assert logits.shape == expected.shape
    assert torch.allclose(logits, expected, atol=2e-5), (logits - expected).abs().max()
    assert (logits[-1] - logits[-2]).abs().max() > 0.1  # the logits say something

    blank = [np.full_like(frame, 90) for frame in frames]
    other = decoder_logits(adapter, stream(adapter, blank, times, chunk=2))
    assert (other[-1] - logits[-1]).abs().max() > 1e-3  # and the frames matter


def test_a_long_video_gives_the_logits_of_the_whole_model_at_the_same_positions(checkpoint) -> None:
    adapter = models.load(checkpoint("qwen2_5_vl"))
    frames, times = frames_of(6), [2.0 * i for i in range(6)]
    parts = stream(adapter, frames, times, chunk=2)
    ids = input_ids(adapter, parts)
    patches, grid, _ = adapter._patches(frames)
    with torch.no_grad():
        expected = adapter.model(
            input_ids=ids,
            pixel_values_videos=patches,
            video_grid_thw=grid,
            position_ids=place(parts)[:, None],
        ).logits[0]
    assert torch.allclose(decoder_logits(adapter, parts), expected, atol=2e-5)


def rope_index(
    adapter: Adapter, parts: Sequence[Segment], frames: list[np.ndarray], seconds: float
) -> tuple[Tensor, Tensor]:
    """The model's own positions of one video, and the mask of its visual tokens."""
    model: Any = adapter.model
    ids = input_ids(adapter, parts)
    visual = ids == model.config.video_token_id
    _, grid, _ = adapter._patches(frames)
    positions, _ = model.model.get_rope_index(
        ids,
        2 * visual.int(),
        video_grid_thw=grid,
        second_per_grid_ts=torch.tensor([seconds]),
    )
    return positions[:, 0], visual[0]


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("fps", [1.0, 2.0, 0.3, 3.0, 29.97])
@pytest.mark.parametrize("chunk", [2, 4, 12])
def test_m_rope_positions_are_the_models(checkpoint, family: str, fps: float, chunk: int) -> None:
    adapter = models.load(checkpoint(family))
    frames = frames_of(12)
    parts = stream(adapter, frames, [i / fps for i in range(12)], chunk)
    ours = place(parts)
    theirs, visual = rope_index(adapter, parts, frames, 2 / fps)
    behind = int(visual.nonzero().max()) + 1
    assert torch.equal(ours[:, :behind], theirs[:, :behind])
    # Text behind the video starts behind all of its positions, as the released models were trained;
    # get_rope_index of transformers 5 starts it max(rows, columns) behind the start of the video.
    text = ours[:, behind:]
    assert torch.equal(
        text, int(ours[:, :behind].max()) + 1 + torch.arange(text.shape[1]).expand(3, -1)
    )
    if int(theirs[0, :behind].max()) <= int(theirs[1:, :behind].max()):
        assert torch.equal(text, theirs[:, behind:])


def test_the_two_text_rules_differ_only_for_long_videos(checkpoint) -> None:
    """Guards the case above: both branches of it are met."""
    adapter = models.load(checkpoint("qwen2_5_vl"))
    frames = frames_of(12)
    shifts = {}
    for fps in (29.97, 1.0):
        parts = stream(adapter, frames, [i / fps for i in range(12)], 4)
        theirs, _ = rope_index(adapter, parts, frames, 2 / fps)
        shifts[fps] = int((place(parts) - theirs).max())
    assert shifts == {29.97: 0, 1.0: 2 * 10 + 1 - 3}  # t reaches 20, the grid is 3 wide


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl"])
def test_question_between_chunks_does_not_move_the_video(checkpoint, family: str) -> None:
    adapter = models.load(checkpoint(family))
    frames, times = frames_of(8), [float(i) for i in range(8)]
    first, second = adapter.encode(frames[:4], times[:4]), adapter.encode(frames[4:], times[4:])
    cursor = Cursor()
    _, cursor = cursor.place(adapter.prefix())
    _, cursor = cursor.place(first)
    straight, _ = cursor.place(second)
    asked, behind = cursor.place(adapter.question(QUESTION))
    assert int(asked.min()) == cursor.next
    resumed, _ = behind.place(second)
    assert torch.equal(straight, resumed)


def test_single_frame_chunks_advance_by_the_processors_fps(checkpoint) -> None:
    adapter = models.load(checkpoint("qwen2_5_vl"))
    segment = adapter.encode(frames_of(1), [7.0])
    assert segment.video_span == 1  # 2 positions a second, 2 frames a second
    assert segment.rel[0].max() == 0


def test_odd_chunks_pair_the_last_frame_with_itself(checkpoint) -> None:
    adapter = models.load(checkpoint("qwen2_5_vl"))
    frames = frames_of(3)
    odd = adapter.encode(frames, [0.0, 1.0, 2.0])
    even = adapter.encode([*frames, frames[2]], [0.0, 1.0, 2.0, 3.0])
    assert torch.allclose(odd.embeds, even.embeds, atol=1e-6)
    assert odd.frame.tolist() == [1] * 6 + [2] * 6
    assert odd.video_span == 6  # the next frame comes at 3 s
    assert even.video_span == 8
