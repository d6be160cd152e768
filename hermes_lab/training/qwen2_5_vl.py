"""`pocket-mrope`: Qwen2.5-VL, the same world seen by a family with 3-D M-RoPE.

Frames are not paired (temporal patches of one frame), so a frame is 16 tokens and streams, questions and
evaluation are those of `pocket`.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from hermes_lab.engine.upstream import set_attention
from hermes_lab.models.preprocess import temporal_patches
from hermes_lab.training.config import SYSTEM_PROMPT, TOKENS_PER_FRAME, PocketConfig
from hermes_lab.training.family import PREPARED, Family, Settings, scale_matrices
from hermes_lab.training.vocabulary import IMAGE, VIDEO, WORDS

VIDEO_START, VIDEO_END, VIDEO_PAD, IMAGE_PAD = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|video_pad|>",
    "<|image_pad|>",
)
_MERGE = 2
_FPS = 1
TICKS_PER_SECOND = TOKENS_PER_FRAME * _FPS
"""The video's clock runs as fast as positions on one axis would at one frame a second."""


class Qwen2_5VLFamily(Family):
    """One video span: its clock is the first rotary axis, rows and columns are the others."""

    words: ClassVar[tuple[str, ...]] = (
        *({IMAGE: IMAGE_PAD, VIDEO: VIDEO_PAD}.get(w, w) for w in WORDS),
        VIDEO_START,
        VIDEO_END,
    )
    chat_template: ClassVar[str] = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
        + SYSTEM_PROMPT
        + "<|im_end|>\n{% endif %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    opening_words: ClassVar[tuple[str, ...]] = (VIDEO_START,)
    closing_words: ClassVar[tuple[str, ...]] = (VIDEO_END,)

    def build(self, config: PocketConfig, attention: str) -> Any:
        """See `Family.build`; every layer of the tower sees the whole frame, as frames are small."""
        vision, text = config.vision, self.text_settings(config)
        text["rope_parameters"] |= {
            "mrope_section": sections(config.text.width // config.text.heads)
        }
        cfg = Qwen2_5_VLConfig(
            text_config=cast(Any, {"model_type": "qwen2_5_vl_text", "rms_norm_eps": 1e-6} | text),
            vision_config=cast(
                Any,
                {
                    "depth": vision.layers,
                    "hidden_size": vision.width,
                    "intermediate_size": vision.mlp,
                    "num_heads": vision.heads,
                    "out_hidden_size": config.text.width,
                    "patch_size": vision.patch_px,
                    "spatial_merge_size": _MERGE,
                    "temporal_patch_size": 1,
                    "tokens_per_second": TICKS_PER_SECOND,
                    "window_size": vision.image_px,
                    "fullatt_block_indexes": list(range(vision.layers)),
                },
            ),
            image_token_id=self.words.index(IMAGE_PAD),
            video_token_id=self.words.index(VIDEO_PAD),
            vision_start_token_id=self.words.index(VIDEO_START),
            vision_end_token_id=self.words.index(VIDEO_END),
            tie_word_embeddings=True,
        )
        model = Qwen2_5_VLForConditionalGeneration(cfg)
        set_attention(model, attention)
        scale_matrices(self.tower(model))
        return model

    def processor(self, config: PocketConfig) -> Settings:
        """See `Family.processor`; the pixel budget of a frame is a square of `image_px`."""
        vision = config.vision
        area = vision.image_px**2
        common: dict[str, Any] = PREPARED | {
            "size": {"shortest_edge": area, "longest_edge": area},
            "patch_size": vision.patch_px,
            "merge_size": _MERGE,
            "temporal_patch_size": 1,
        }
        return {
            "preprocessor_config.json": common | {"image_processor_type": "Qwen2VLImageProcessor"},
            "video_preprocessor_config.json": common
            | {"video_processor_type": "Qwen2VLVideoProcessor", "fps": _FPS},
            "processor_config.json": {"processor_class": "Qwen2_5_VLProcessor"},
        }

    def tower(self, model: Any) -> nn.Module:
        """The vision transformer, its merger included."""
        return cast(nn.Module, model.model.visual)

    def projector(self, model: Any) -> nn.Module:
        """The patch merger."""
        return cast(nn.Module, model.model.visual.merger)

    def features(self, model: Any, frames: Tensor) -> Tensor:
        """All streams as one long video: frames never see each other in the tower."""
        vision = model.config.vision_config
        flat = frames.flatten(0, 1)
        patches = temporal_patches(flat, vision.patch_size, _MERGE, 1)
        side = frames.shape[-1] // vision.patch_size
        grid = torch.tensor([[len(flat), side, side]], device=frames.device)
        found = model.model.get_video_features(patches, grid, return_dict=True).pooler_output
        return torch.cat(list(found)).view(len(frames), -1, found[0].shape[-1])

    def positions(
        self, place: Int[Tensor, "stream token"], prefix_tokens: int
    ) -> Int[Tensor, "3 stream token"]:
        """(t, h, w): a frame's clock is the place of its first token; rows and columns count from the
        start of the video, wherever the clock is (`hermes_lab.engine.cursor`).

        So a gap between frames, which is what evicted frames leave behind, moves the clock and nothing else;
        text behind the video starts behind the largest position on any axis, and moves on all three.
        """
        start, video = place[:, :prefix_tokens], place[:, prefix_tokens:]
        frames = video.unflatten(1, (-1, TOKENS_PER_FRAME))
        clock = frames[..., :1].expand_as(frames).flatten(1)
        cell = torch.arange(TOKENS_PER_FRAME, device=place.device)
        side = int(TOKENS_PER_FRAME**0.5)
        rows, cols = (
            (prefix_tokens + axis).expand_as(frames).flatten(1)
            for axis in (cell // side, cell % side)
        )
        return torch.stack([torch.cat([start, axis], 1) for axis in (clock, rows, cols)])


def sections(head_dim: int) -> list[int]:
    """How many of a head's frequencies turn with time, rows and columns, the fastest first.

    The family's checkpoints give time a quarter. With heads of 32 that leaves four frequencies, the slowest of
    which turns once in two frames here: times further apart could not be told from each other. So time gets
    three quarters, which is unambiguous over thousands of positions, and rows and columns the slow rest, which
    says next to nothing about a cell: where a cell is comes from the tower and the order of tokens. A decoder
    that was trained on one axis loses nothing by it (`pocket`'s, fed its own visual tokens at these positions,
    without further training: NOW .99, RECENT .74, LONG .81 on 180 questions in 3 streams of 48 frames, against
    1.00, .70, .81 on one axis; with the family's quarter NOW .54, RECENT .26).
    """
    half = head_dim // 2
    side = max(1, half // 8)
    return [half - 2 * side, side, side]
