"""A model family in a package of its own: LLaVA 1.5, a CLIP tower before a Llama decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hermes_lab.models.fixed_frames import FixedFrames


class Llava(FixedFrames):
    """Each frame becomes its grid of patches, one token each, with nothing between frames.

    The model was trained on single images; several frames in a row are more than it has seen.
    """

    family: ClassVar[str] = "llava"
    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    examples: ClassVar[tuple[str, ...]] = ("llava-hf/llava-1.5-7b-hf",)
    note: ClassVar[str] = "frames one by one, 576 tokens each; trained on single images"
    frame_defaults: ClassVar[Mapping[str, Any]] = {
        **FixedFrames.frame_defaults,
        "image_mean": (0.48145466, 0.4578275, 0.40821073),
        "image_std": (0.26862954, 0.26130258, 0.27577711),
    }
    fallback_template: ClassVar[str] = (
        "{% for m in messages %}{{ m['role'] | upper }}: "
        "{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>\n"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )

    @property
    def grid_side(self) -> int:
        """Patches per side (24 at 336 px)."""
        return self.patch_side

    def visual_tokens(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n cells hidden"]:
        """Tower and projector; the class token is left out."""
        found = self._inner.get_image_features(pixels, return_dict=True).pooler_output
        return torch.stack(list(found))

    def placeholders(self) -> Sequence[tuple[str, str]]:
        """The template writes the image token for an image."""
        token_id = int(self._inner.config.image_token_id)
        return [("image", str(self.tokenizer.convert_ids_to_tokens(token_id)))]
