"""StreamMem: attention of the chat template's turn boundary, and one prototype for each new frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.policies.base import (
    Admission,
    Arrival,
    Guidance,
    LayerView,
    Merged,
    Need,
    Policy,
    Scores,
    computed,
    setting,
)
from hermes_lab.policies.parts.frames import merge_similar
from hermes_lab.policies.parts.scoring import keys_of, rows_of, values_of


@dataclass(frozen=True, kw_only=True)
class StreamMem(Policy):
    """Keep what the template tokens that end a user's turn attend to, and a weighted mean of each new frame.

    s_j is the attention of the turn-boundary tokens, mean over heads and rows (the paper leaves the aggregation
    open). With α_j = s_j / Σ over its frame, a frame's prototype is (Σ α_j k_j, Σ α_j v_j), placed at the frame.
    Source: StreamMem (arXiv 2508.15717).

    Deviations: prototypes count within the budget, so that budgets compare; they are made for the frames of the newest
    chunk, at most `clip_frames` (feed chunks of that many: slots are held for them), and later are tokens like any
    other. The paper extends the model's range with YaRN; here the position rule is chosen separately.
    """

    clip_frames: int = setting(
        8, "Frames of a chunk that get a prototype (paper: clips of 8); 0: none.", minimum=0
    )
    weights: Literal["attention", "mean"] = setting(
        "attention",
        "Weights of a frame's tokens in its prototype (ablated in the paper: 66.9 against 66.3 on MLVU).",
    )
    similarity: float | None = setting(
        0.95, "Cosine above which consecutive frames are averaged before the decoder (δ of the paper); None: no filter.",
        minimum=-1.0, maximum=1.0,
    )  # fmt: skip

    title = "attention of the chat template, frame prototypes"
    source = "StreamMem (arXiv 2508.15717)"
    licence = "none published"
    needs = computed(  # without the filter nothing of the vision tower is read
        lambda policy: (
            frozenset({Need.GUIDANCE, Need.KEYS, Need.VALUES})
            | ({Need.FEATURES} if policy.similarity is not None else set())
        )
    )
    attention_detail = "mean"

    def guidance(self, history: Sequence[tuple[str, str]]) -> tuple[Guidance, ...]:
        """The tokens that close the user's turn and open the assistant's."""
        return (Guidance(name="template", kind="turn_boundary"),)

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """Average consecutive frames that look alike (input filter)."""
        return None if self.similarity is None else merge_similar(arrival, self.similarity)

    def observe(self, view: LayerView) -> Mapping[str, Float[Tensor, "head token"]]:
        """The step at which each token entered."""
        entered = view.carried.get("streammem_step")
        now = torch.full((1, view.tokens), float(view.step), device=view.ids.device)
        return {
            "streammem_step": now if entered is None else torch.where(entered.isnan(), now, entered)
        }

    def score(self, view: LayerView) -> Scores:
        """Attention of the template tokens."""
        attention = rows_of(view, "template").mean((0, 1))[None]
        return Scores(attention, {"attention": attention})

    def reserve(self, layer: int, layers: int) -> int:
        """One slot for each frame of a clip, as far as half the budget allows."""
        if self.budget_tokens is None:
            return self.clip_frames
        return min(self.clip_frames, self.budget_tokens // 2)

    def merge(
        self, view: LayerView, kept: Int[Tensor, "head kept"], scores: Scores
    ) -> Merged | None:
        """One prototype for each frame of the newest chunk, over all of its tokens, kept or not."""
        slots = self.reserve(view.layer, view.layers)
        new = (view.carried["streammem_step"][0] == view.step) & (view.frame[0] >= 0)
        frames = view.frame[0][new].unique().tolist()[-slots:] if slots else []
        if not frames:
            return None
        made = [self._prototype(view, scores.total[0], view.frame[0] == frame) for frame in frames]
        keys, values, positions, sources = zip(*made, strict=True)
        return Merged(
            keys=torch.stack(keys, 1).to(keys_of(view).dtype),
            values=torch.stack(values, 1).to(values_of(view).dtype),
            positions=torch.stack(positions, 1),
            sources=tuple(sources),
            place="sorted",
        )

    def _prototype(
        self, view: LayerView, score: Float[Tensor, " token"], member: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Key [kv_head, dim], value, position [axis] and sources of one frame's prototype."""
        places = member.nonzero()[:, 0]
        weight = score[places] if self.weights == "attention" else torch.ones_like(score[places])
        weight = weight / weight.sum().clamp_min(1e-12)
        keys, values = keys_of(view)[:, places], values_of(view)[:, places]
        where = view.positions[0][:, places].float().mean(1).round().to(view.positions.dtype)
        return (
            torch.einsum("t,htd->hd", weight, keys),
            torch.einsum("t,htd->hd", weight, values),
            where,
            view.ids[0][places],
        )
