"""LLaVA-OneVision: a SigLIP tower, frames pooled 2x2, a Qwen2 decoder with 1-D rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from hermes_lab.errors import ModelError
from hermes_lab.models.base import FrameLayout, Segment
from hermes_lab.models.capture import Call, attention_received, watching
from hermes_lab.models.chat import ChatAdapter
from hermes_lab.models.preprocess import BICUBIC, FrameSettings, fixed_size, stack_frames


class LlavaOnevision(ChatAdapter):
    """Frames are encoded one by one and become a square grid of tokens each, with nothing between them.

    The one-shot model appends one learned `image_newline` token to a whole video. A stream has no end to
    put it at, so it is left out here, as streaming methods on this family do (ReKV, HERMES).
    """

    family: ClassVar[str] = "llava_onevision"
    model_types: ClassVar[tuple[str, ...]] = ("llava_onevision",)
    fallback_template: ClassVar[str] = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }} "
        "{% for part in m['content'] %}{% if part['type'] == 'video' %}<video>{% endif %}{% endfor %}"
        "{% for part in m['content'] %}{% if part['type'] == 'text' %}\n{{ part['text'] }}{% endif %}{% endfor %}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )

    @property
    def _inner(self) -> Any:
        return cast(Any, self.model).model

    @property
    def decoder(self) -> nn.Module:
        """The Qwen2 model."""
        return cast(nn.Module, self._inner.language_model)

    @property
    def head(self) -> nn.Module:
        """The language-model head."""
        return cast(nn.Module, cast(Any, self.model).lm_head)

    @property
    def vision(self) -> nn.Module:
        """The SigLIP tower."""
        return cast(nn.Module, self._inner.vision_tower)

    @cached_property
    def _frame_settings(self) -> FrameSettings:
        side = int(self._inner.config.vision_config.image_size)
        defaults = {
            "size": {"height": side, "width": side},
            "resample": BICUBIC,
            "image_mean": (0.5, 0.5, 0.5),
            "image_std": (0.5, 0.5, 0.5),
        }
        saved = self.image_settings.get("video") or self.image_settings.get("image") or {}
        return FrameSettings.from_saved(saved, defaults)

    @cached_property
    def _patches_per_side(self) -> int:
        vision = self._inner.config.vision_config
        return int(vision.image_size) // int(vision.patch_size)

    def frame_layout(self, height: int, width: int) -> FrameLayout:
        """The same grid for every frame, whatever its size: the processor makes frames square."""
        side = -(-self._patches_per_side // 2)
        return FrameLayout(rows=side, cols=side)

    @torch.no_grad()
    def encode(
        self,
        frames: Sequence[npt.NDArray[np.uint8]],
        times_s: Sequence[float],
        *,
        want_saliency: bool = False,
    ) -> Segment:
        """See `Adapter.encode`; chunks of any length give the tokens of the whole video."""
        tower = cast(Any, self.vision)
        pixels = self._pixels(frames).to(tower.device, tower.dtype)
        with (
            watching(self._inner.multi_modal_projector) as projector,
            watching(tower.encoder.layers[-1].self_attn) as attention,
        ):
            output = self._inner.get_video_features(pixels[None], return_dict=True)
        layout = self.frame_layout(0, 0)
        visual = output.pooler_output[0, :-1].unflatten(0, (len(frames), layout.visual_tokens))
        features = self._to_grid(projector.hidden).flatten(0, 1)
        saliency = None
        if want_saliency:
            saliency = self._to_grid(self._received(attention)[..., None]).flatten()
        return self.frame_segment(
            visual,
            layout.cols,
            features=features,
            saliency=saliency,
            time_s=tuple(float(t) for t in times_s),
        )

    def _pixels(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Float[Tensor, "n 3 h w"]:
        settings = self._frame_settings
        pixels = torch.cat([fixed_size(stack_frames([f]), settings) for f in frames])
        side = int(self._inner.config.vision_config.image_size)
        if pixels.shape[-2:] != (side, side):
            raise ModelError(
                f"The processor settings of {self.name or self.family} make frames of "
                f"{pixels.shape[-1]}x{pixels.shape[-2]} pixels, but its vision tower takes {side}x{side}."
            )
        return settings.normalise(pixels)

    def _to_grid(self, patches: Float[Tensor, "n patches width"]) -> Float[Tensor, "n cells width"]:
        """Mean over the patches that each token of the pooled grid covers."""
        side = self._patches_per_side
        image = patches.float().transpose(1, 2).unflatten(2, (side, side))
        return (
            F.adaptive_avg_pool2d(image, -(-side // 2)).flatten(2).transpose(1, 2).to(patches.dtype)
        )

    def _received(self, call: Call) -> Float[Tensor, "n patches"]:
        """Attention received in the tower's last layer, frame by frame (the scores are patches squared)."""
        attention = cast(Any, call.module)
        split = (attention.num_heads, attention.head_dim)
        query = attention.q_proj(call.hidden).unflatten(-1, split).transpose(1, 2)
        key = attention.k_proj(call.hidden).unflatten(-1, split).transpose(1, 2)
        rows = [attention_received(q, k, attention.scale) for q, k in zip(query, key, strict=True)]
        return torch.stack(rows)[
            :, -(self._patches_per_side**2) :
        ]  # a class token comes first, if any
