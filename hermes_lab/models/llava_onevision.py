"""LLaVA-OneVision: a SigLIP tower, frames pooled 2x2, a Qwen2 decoder with 1-D rotary positions."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hermes_lab.models.fixed_frames import FixedFrames


class LlavaOnevision(FixedFrames):
    """Each frame becomes its grid of tokens, with nothing between frames.

    The one-shot model appends one learned `image_newline` token to a whole video. A stream has no end to
    put it at, so it is left out here, as streaming methods on this family do (ReKV, HERMES).
    """

    family: ClassVar[str] = "llava_onevision"
    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    examples: ClassVar[tuple[str, ...]] = (
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    )
    note: ClassVar[str] = "frames one by one, 196 tokens each at 384 px"
    fallback_template: ClassVar[str] = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }} "
        "{% for part in m['content'] %}{% if part['type'] == 'video' %}<video>{% endif %}{% endfor %}"
        "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ '\n' + part['text'] }}{% endif %}"
        "{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    @property
    def grid_side(self) -> int:
        """Half the patches per side, rounded up (27 patches give 14 tokens)."""
        return -(-self.patch_side // 2)

    def visual_tokens(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n cells hidden"]:
        """Tower, projector, bilinear pooling; the trailing `image_newline` is dropped."""
        output = self._inner.get_video_features(pixels[None], return_dict=True)
        return output.pooler_output[0, :-1].unflatten(0, (pixels.shape[0], self.grid_side**2))
