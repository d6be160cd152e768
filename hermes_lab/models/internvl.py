"""InternVL (the transformers-native checkpoints, "-hf"): InternViT, pixel shuffle, 1-D rotary positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from hermes_lab.models.fixed_frames import FixedFrames

_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}


class InternVL(FixedFrames):
    """Each frame stands between `<img>` and `</img>`, on a line of its own.

    Streaming differs from one-shot processing in the marker: the processor numbers the frames ("Frame1: "),
    which a chunk cannot know and which runs out of the trained range in a long stream, so the number is
    left out. Frames are not cropped into tiles, as in the processor's handling of videos.
    """

    family: ClassVar[str] = "internvl"
    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    examples: ClassVar[tuple[str, ...]] = ("OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL3-8B-hf")
    note: ClassVar[str] = "256 tokens per frame between image tokens, frames not numbered"
    frame_defaults: ClassVar[Mapping[str, Any]] = {**FixedFrames.frame_defaults, **_IMAGENET}
    fallback_template: ClassVar[str] = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
        "{% if part['type'] == 'video' %}<video>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    @property
    def grid_side(self) -> int:
        """Patches per side, times the downsampling ratio (16 for the released models)."""
        return int(self.patch_side * self._inner.config.downsample_ratio)

    @property
    def _last_attention(self) -> nn.Module:
        return cast(nn.Module, cast(Any, self.vision).encoder.layer[-1].attention)

    def visual_tokens(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n cells hidden"]:
        """Tower, pixel shuffle, projector."""
        return self._inner.get_image_features(pixels, return_dict=True).pooler_output

    def features_on_grid(self, hidden: Tensor) -> Float[Tensor, "n cells width"]:
        """The pixel shuffle put the patches of a cell side by side: their mean."""
        merged = round(1 / self._inner.config.downsample_ratio) ** 2
        return hidden.float().unflatten(-1, (merged, -1)).mean(dim=-2)

    def placeholders(self) -> Sequence[tuple[str, str]]:
        """The video token, with the line break behind it that here belongs to the last frame."""
        token = str(getattr(self.tokenizer, "video_token", "<video>"))
        return [("video", f"{token}\n"), ("video", token)]

    def bridge_architecture(self) -> type[Any]:
        """LLaVA's adapter of TransformerLens without its vision encoder: InternViT is left to transformers."""
        from transformer_lens.model_bridge.supported_architectures.llava import (
            LlavaArchitectureAdapter,
        )

        class InternVLArchitectureAdapter(LlavaArchitectureAdapter):
            """InternVL (-hf): a Qwen2 decoder where LLaVA has its own."""

            def __init__(self, cfg: Any) -> None:
                super().__init__(cfg)
                cast("dict[str, Any]", self.component_mapping).pop("vision_encoder")

        return InternVLArchitectureAdapter

    def markers(self, time_s: float) -> tuple[str, str]:
        """The image tokens; the line break separates frames, and the last one from the question."""
        start = getattr(self.tokenizer, "start_image_token", "<img>")
        end = getattr(self.tokenizer, "end_image_token", "</img>")
        return start, f"{end}\n"
