"""Qwen2.5-VL and Qwen2-VL: pairs of frames, 3-D M-RoPE (time, height, width)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from hermes_lab.models.capture import watching
from hermes_lab.models.preprocess import check_frames
from hermes_lab.models.qwen_vision import QwenVision, Run, bicubic_defaults
from hermes_lab.segment import Segment
from hermes_lab.tokens import Role

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_JITTER_S = 0.025  # a sampled frame may show half a film frame before its nominal time
_FALLBACK_FPS = 2.0


class Qwen2_5VL(QwenVision):
    """One video span for the whole stream: chunks continue its t axis and share its h and w origin.

    Streaming differs from one-shot processing where a chunk has an odd number of frames (or frames change
    size): the last frame of such a run is paired with itself instead of with the first of the next chunk,
    so feed even chunks to get the tokens of the whole video. A temporal position is
    `floor(tokens_per_second * time)`, with 25 ms of grace, from the times of the frames; for a constant frame
    rate these are the positions of `get_rope_index` (Qwen2-VL: the index of the pair).
    """

    family: ClassVar[str] = "qwen2_5_vl"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_vl", "qwen2_vl")
    examples: ClassVar[tuple[str, ...]] = (
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen/Qwen2-VL-2B-Instruct",
    )
    note: ClassVar[str] = "pairs of frames, M-RoPE time follows the clock; feed even chunks"
    frame_defaults: ClassVar[dict[str, Any]] = bicubic_defaults(
        128 * 28 * 28, 768 * 28 * 28, _CLIP_MEAN, _CLIP_STD
    )

    @torch.no_grad()
    def encode(
        self,
        frames: Sequence[npt.NDArray[np.uint8]],
        times_s: Sequence[float],
        *,
        want_saliency: bool = False,
    ) -> Segment:
        """See `Adapter.encode`; the time step behind the last frame is the mean step of the chunk, or that
        of the processor's `fps` where the chunk has one frame only."""
        times = check_frames(frames, times_s)
        tower = cast(Any, self.vision)
        patches, grids, runs = self._patches(frames)
        grids = grids.to(tower.device)
        with watching(tower.merger) as merger, watching(tower.blocks[-1].attn) as attention:
            output = self._inner.get_video_features(
                patches.to(tower.device, tower.dtype), grids, return_dict=True
            )
            features = self._to_tokens(merger.hidden, grids)
            saliency = self._to_tokens(self._received(attention), grids) if want_saliency else None
        visual = torch.cat(list(output.pooler_output)).to(self.device, self.dtype)
        rel, frame, span = self._positions(runs, times)
        return Segment(
            embeds=visual,
            role=np.full(len(visual), Role.VISUAL, np.int8),
            frame=frame,
            row=rel[1].numpy().astype(np.int16),
            col=rel[2].numpy().astype(np.int16),
            rel=rel,
            anchor="video",
            video_span=span,
            features=features,
            saliency=saliency,
            time_s=times,
        )

    def _to_tokens(
        self, patches: Float[Tensor, "patches ..."], grids: Int[Tensor, "runs 3"]
    ) -> Float[Tensor, "tokens ..."]:
        """Mean over the patches of each token, taken out of the tower's window order."""
        tower = cast(Any, self.vision)
        merge = int(tower.spatial_merge_size)
        tokens = patches.float().unflatten(0, (-1, merge**2)).mean(dim=1)
        if not hasattr(tower, "window_size"):  # Qwen2-VL has no windows
            return tokens
        order, _ = get_vision_window_index(grids, merge, tower.window_size, tower.patch_size)
        return tokens[torch.argsort(order).to(tokens.device)]

    def _positions(
        self, runs: Sequence[Run], times_s: Sequence[float]
    ) -> tuple[Int[Tensor, "3 tokens"], npt.NDArray[np.int32], int]:
        """Relative (t, h, w) of each token, its frame, and the span of the video's t axis."""
        per_group = self._geometry[2]
        groups = [(run, *pair) for run in runs for pair in run.group_frames(per_group)]
        ticks = self._ticks([times_s[first] for _, first, _ in groups], times_s)
        pieces: list[Tensor] = []
        frame: list[npt.NDArray[np.int32]] = []
        for (run, _, last), tick in zip(groups, ticks, strict=False):
            row, col = np.divmod(np.arange(run.rows * run.cols), run.cols)
            pieces.append(torch.from_numpy(np.stack([np.full_like(row, tick), row, col])))
            frame.append(np.full(len(row), last, np.int32))
        return torch.cat(pieces, dim=1), np.concatenate(frame), ticks[-1]

    def _ticks(self, group_times_s: Sequence[float], times_s: Sequence[float]) -> list[int]:
        """Temporal position of each group and of the first group after the chunk, the first being 0."""
        per_second = getattr(self._inner.config.vision_config, "tokens_per_second", None)
        if per_second is None:  # Qwen2-VL counts groups
            return list(range(len(group_times_s) + 1))
        if len(times_s) > 1:
            step = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
        else:
            step = 1 / float(self._saved_video_settings().get("fps") or _FALLBACK_FPS)
        stops = [*group_times_s, times_s[-1] + step]
        absolute = [math.floor(per_second * (time + _JITTER_S)) for time in stops]
        return [tick - absolute[0] for tick in absolute]
