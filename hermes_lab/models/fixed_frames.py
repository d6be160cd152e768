"""What the families share whose frames all have one size: encoded one by one, a square token grid each."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from hermes_lab.errors import ModelError
from hermes_lab.models.assemble import GridRun, TextRun, assemble
from hermes_lab.models.base import FrameLayout
from hermes_lab.models.capture import Call, attention_received, watching
from hermes_lab.models.conditional import ConditionalGeneration
from hermes_lab.models.preprocess import (
    BICUBIC,
    FrameSettings,
    check_frames,
    fixed_size,
    stack_frames,
)
from hermes_lab.segment import Segment
from hermes_lab.tokens import Role


class FixedFrames(ConditionalGeneration):
    """Frames never see each other in the vision encoder, so chunks of any length give the same tokens."""

    frame_defaults: ClassVar[Mapping[str, Any]] = {
        "resample": BICUBIC,
        "image_mean": (0.5, 0.5, 0.5),
        "image_std": (0.5, 0.5, 0.5),
    }

    # --- what a family says ----------------------------------------------------------------
    @property
    @abstractmethod
    def grid_side(self) -> int:
        """Tokens per side of a frame."""

    @abstractmethod
    def visual_tokens(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n cells hidden"]:
        """Decoder embeddings of frames."""

    @property
    def _projector(self) -> nn.Module:
        """The module between tower and decoder."""
        return cast(nn.Module, self._inner.multi_modal_projector)

    @property
    def _last_attention(self) -> nn.Module:
        """Self-attention of the tower's last layer."""
        return cast(nn.Module, cast(Any, self.vision).encoder.layers[-1].self_attn)

    def markers(self, time_s: float) -> tuple[str, str]:
        """Text before and after a frame."""
        return "", ""

    def resize_frame(self, frame: UInt8[Tensor, "1 3 h w"]) -> UInt8[Tensor, "1 3 side side"]:
        """One frame at the size that the tower takes."""
        return fixed_size(frame, self.frame_settings)

    def features_on_grid(self, hidden: Tensor) -> Float[Tensor, "n cells width"]:
        """What entered the projector, on the token grid."""
        return self.to_grid(hidden)

    # --- shared ----------------------------------------------------------------------------
    @cached_property
    def frame_settings(self) -> FrameSettings:
        """Size and normalisation of a frame, from the video processor's settings where there are any."""
        side = self.image_side
        saved = self.image_settings.get("video") or self.image_settings.get("image") or {}
        return FrameSettings.from_saved(
            saved, {"size": {"height": side, "width": side}, **self.frame_defaults}
        )

    @cached_property
    def image_side(self) -> int:
        """Pixels per side that the tower takes."""
        size = self._inner.config.vision_config.image_size
        return int(size if isinstance(size, int) else size[0])

    @cached_property
    def patch_side(self) -> int:
        """Patches per side of a frame."""
        patch = self._inner.config.vision_config.patch_size
        return self.image_side // int(patch if isinstance(patch, int) else patch[0])

    def frame_layout(self, height: int, width: int) -> FrameLayout:
        """The same square grid for every frame, whatever its size."""
        marker_tokens = sum(len(self.token_ids(text)) for text in self.markers(0.0))
        return FrameLayout(rows=self.grid_side, cols=self.grid_side, marker_tokens=marker_tokens)

    @torch.no_grad()
    def encode(
        self,
        frames: Sequence[npt.NDArray[np.uint8]],
        times_s: Sequence[float],
        *,
        want_saliency: bool = False,
    ) -> Segment:
        """See `Adapter.encode`."""
        times = check_frames(frames, times_s)
        tower = cast(Any, self.vision)
        pixels = self._pixels(frames).to(tower.device, tower.dtype)
        with watching(self._projector) as projector, watching(self._last_attention) as attention:
            visual = self.visual_tokens(pixels)
        runs: list[TextRun | GridRun] = []
        for index, (grid, time_s) in enumerate(zip(visual, times, strict=True)):
            before, after = (self.token_ids(text) for text in self.markers(time_s))
            runs += [
                TextRun(before, Role.MARKER, index),
                GridRun(grid, self.grid_side, index),
                TextRun(after, Role.MARKER, index),
            ]
        saliency = None
        if want_saliency:
            saliency = self.to_grid(self._received(attention)[..., None]).flatten()
        return assemble(
            self,
            runs,
            features=self.features_on_grid(projector.hidden).flatten(0, 1),
            saliency=saliency,
            time_s=times,
        )

    def to_grid(self, patches: Float[Tensor, "n patches width"]) -> Float[Tensor, "n cells width"]:
        """Mean over the patches that each token of the grid covers; a class token in front is dropped."""
        side = self.patch_side
        image = rearrange(patches[:, -(side**2) :].float(), "n (y x) width -> n width y x", y=side)
        pooled = F.adaptive_avg_pool2d(image, self.grid_side)
        return rearrange(pooled, "n width row col -> n (row col) width")

    def _pixels(self, frames: Sequence[npt.NDArray[np.uint8]]) -> Float[Tensor, "n 3 h w"]:
        pixels = torch.cat([self.resize_frame(stack_frames([frame])) for frame in frames])
        if pixels.shape[-2:] != (self.image_side, self.image_side):
            raise ModelError(
                f"The processor settings of {self.name or self.family} make frames of "
                f"{pixels.shape[-1]}x{pixels.shape[-2]} pixels, but its vision tower takes "
                f"{self.image_side}x{self.image_side}."
            )
        return self.frame_settings.normalise(pixels)

    def _received(self, call: Call) -> Float[Tensor, "n patches"]:
        """Attention received in the tower's last layer, frame by frame (the scores are patches squared)."""
        attention = cast(Any, call.module)
        query, key = attention.q_proj(call.hidden), attention.k_proj(call.hidden)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        query, key = (
            rearrange(x, "n patch (head dim) -> n head patch dim", head=attention.num_heads)
            for x in (query, key)
        )
        rows = [attention_received(q, k, attention.scale) for q, k in zip(query, key, strict=True)]
        return torch.stack(rows)
