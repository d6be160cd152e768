"""Qwen3-VL: pairs of frames with their time in words, interleaved M-RoPE, DeepStack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hermes_lab.models.assemble import GridRun, TextRun, assemble
from hermes_lab.models.base import FrameLayout
from hermes_lab.models.capture import watching
from hermes_lab.models.preprocess import check_frames
from hermes_lab.models.qwen_vision import QwenVision, bicubic_defaults
from hermes_lab.segment import Segment
from hermes_lab.tokens import Role

_HALF = (0.5, 0.5, 0.5)
_TOKENS_PER_FRAME = 768  # the cap of the reference implementation (qwen-vl-utils) for video frames
_FLOOR = 1.05  # its smallest cap, relative to the smallest video


class Qwen3VL(QwenVision):
    """Each pair of frames is a grid of its own behind "<1.5 seconds>", so its t position is text's.

    Streaming differs from one-shot processing twice. The processor shares one pixel budget among all
    frames of a video; a stream has no number of frames, so each pair is sized like a video of two frames
    under the reference implementation's cap per frame (768 tokens). And an odd last frame of a chunk is
    paired with itself: feed even chunks to get the pairs of the whole video.
    """

    family: ClassVar[str] = "qwen3_vl"
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)
    examples: ClassVar[tuple[str, ...]] = (
        "Qwen/Qwen3-VL-2B-Instruct",
        "Qwen/Qwen3-VL-4B-Instruct",
        "Qwen/Qwen3-VL-8B-Instruct",
    )
    note: ClassVar[str] = (
        "pairs of frames with their time in words, interleaved M-RoPE, DeepStack; feed even chunks"
    )
    frame_defaults: ClassVar[dict[str, Any]] = bicubic_defaults(
        128 * 32 * 32, 768 * 32 * 32, _HALF, _HALF
    )

    def placeholders(self) -> Sequence[tuple[str, str]]:
        """The template's video with the vision tokens around it: every pair brings its own."""
        start, end = self._vision_tokens
        return [(kind, f"{start}{pad}{end}") for kind, pad in super().placeholders()]

    @property
    def _vision_tokens(self) -> tuple[str, str]:
        config = cast(Any, self.model).config
        ids = [int(config.vision_start_token_id), int(config.vision_end_token_id)]
        start, end = self.tokenizer.convert_ids_to_tokens(ids)
        return str(start), str(end)

    def pixel_bounds(self) -> tuple[float, float]:
        """Bounds for one frame of a two-frame video, capped per frame."""
        patch, merge, per_group = self._geometry
        smallest, largest = super().pixel_bounds()
        cell = (patch * merge) ** 2
        tokens = int(self._saved_video_settings().get("max_video_tokens") or _TOKENS_PER_FRAME)
        cap = max(min(tokens * cell, largest // per_group), int(smallest * _FLOOR))
        return smallest / per_group, cap

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """As for every Qwen-VL, after a frame smaller than one token has been enlarged to it."""
        patch, merge, _ = self._geometry
        side = patch * merge
        if min(height, width) < side:
            scale = max(side / height, side / width)
            height, width = int(height * scale), int(width * scale)
        return super().frame_size(height, width)

    def frame_layout(self, height: int, width: int) -> FrameLayout:
        """The merged grid, and the tokens of a timestamp of one digit with the vision tokens."""
        layout = super().frame_layout(height, width)
        before, after = self._markers(0.0)
        count = len(self.token_ids(before)) + len(self.token_ids(after))
        return FrameLayout(layout.rows, layout.cols, count, layout.frames_per_group)

    @torch.no_grad()
    def encode(
        self,
        frames: Sequence[npt.NDArray[np.uint8]],
        times_s: Sequence[float],
        *,
        want_saliency: bool = False,
    ) -> Segment:
        """See `Adapter.encode`; a pair is named by the mean of its two times."""
        times = check_frames(frames, times_s)
        tower = cast(Any, self.vision)
        patches, grids, sizes = self._patches(frames)
        per_group = self._geometry[2]
        with watching(tower.merger) as merger, watching(tower.blocks[-1].attn) as attention:
            output = self._inner.get_video_features(
                patches.to(tower.device, tower.dtype), grids.to(tower.device), return_dict=True
            )
            features = self._merge(merger.hidden)
            saliency = self._merge(self._received(attention)) if want_saliency else None
        runs: list[TextRun | GridRun] = []
        for size, visual in zip(sizes, output.pooler_output, strict=True):
            cells = visual.unflatten(0, (-1, size.rows * size.cols))
            for grid, (first, last) in zip(cells, size.group_frames(per_group), strict=True):
                before, after = self._markers((times[first] + times[last]) / 2)
                runs += [
                    TextRun(self.token_ids(before), Role.MARKER, last),
                    GridRun(grid, size.cols, last),
                    TextRun(self.token_ids(after), Role.MARKER, last),
                ]
        segment = assemble(
            self,
            runs,
            features=features,
            saliency=saliency,
            time_s=times,
        )
        layers = tuple(
            self._spread(segment, torch.cat(layer)) for layer in output.deepstack_features
        )
        return replace(segment, deepstack=layers)

    def forward_kwargs(self, segment: Segment) -> dict[str, Any]:
        """DeepStack's arguments; `deepstack` is zero on text, so every token may count as visual."""
        if not segment.deepstack:
            return {}
        mask = torch.ones(1, len(segment), dtype=torch.bool, device=segment.embeds.device)
        return {"visual_pos_masks": mask, "deepstack_visual_embeds": list(segment.deepstack)}

    def _markers(self, time_s: float) -> tuple[str, str]:
        start, end = self._vision_tokens
        return f"<{time_s:.1f} seconds>{start}", end

    def _merge(self, patches: Tensor) -> Tensor:
        """Mean over the patches of each token."""
        return patches.float().unflatten(0, (-1, self._geometry[1] ** 2)).mean(dim=1)

    def _spread(self, segment: Segment, visual: Tensor) -> Tensor:
        """Visual rows at the visual tokens, zero elsewhere."""
        spread = torch.zeros_like(segment.embeds)
        where = torch.from_numpy(segment.role == Role.VISUAL).to(spread.device)
        spread[where] = visual.to(spread.device, spread.dtype)
        return spread
