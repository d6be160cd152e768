"""StreamingTOM: a fixed number of tokens per frame before the decoder, and 4-bit groups retrieved at the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import (
    Admission,
    Arrival,
    Codec,
    LayerView,
    Need,
    Policy,
    RecallView,
    Scores,
    computed,
    setting,
)
from hermes_lab.policies.parts.frames import frames_of
from hermes_lab.policies.parts.quantised import GroupQuantised
from hermes_lab.policies.parts.recall import recall_frames
from hermes_lab.policies.parts.scoring import recency


@dataclass(frozen=True, kw_only=True)
class StreamingTOM(Policy):
    """Two paths to G tokens per frame (CTR), then a memory of quantised groups that the question retrieves from (OQM).

    A token is static if its decoder embedding has a cosine above τ to the same cell of the frame before. The static
    share ⌊G · n_static / n⌋ goes to density-peak centres of the static tokens, merged with their members; the rest to the
    dynamic tokens of largest saliency. A group is a frame; the mean of its un-rotated keys is matched by cosine with the
    question's mean un-rotated query. Source: StreamingTOM (arXiv 2510.18269).

    Deviations: positions are compacted with the window, where the original keeps them; only what has left the window is
    quantised, where the original also encodes over quantised keys and values.
    """

    budget_tokens: int | None = setting(
        4_800, "Tokens of the sliding window while encoding (released code).", minimum=1
    )
    frame_tokens: int = setting(50, "G: tokens that a frame keeps (released code).", minimum=1)
    static_similarity: float = setting(
        0.9, "τ: cosine above which a token is static (released code).", minimum=-1.0, maximum=1.0
    )
    neighbours: int = setting(
        7, "k nearest tokens of the density, itself included (released code).", minimum=1
    )
    centre_weight: float = setting(
        0.6,
        "β: weight of a centre against the mean of its members (released code).",
        minimum=0.0,
        maximum=1.0,
    )
    denser: Literal["higher", "lower"] = setting(
        "higher",
        "Distance to a token of higher density (density-peak clustering) or of lower, as the released code compares.",
    )
    dynamic_by: Literal["saliency", "norm"] = setting(
        "saliency",
        "Rank of dynamic tokens: attention in the vision tower's last layer (paper), or embedding norm where it has none.",
    )
    recall_tokens: int = setting(
        12_544, "Tokens that a question retrieves in each layer (paper).", minimum=1
    )
    bits: int = setting(4, "Bits of a stored number (paper).", choices=(2, 4, 8))

    title = "G tokens per frame, 4-bit groups retrieved at the question"
    source = "StreamingTOM (arXiv 2510.18269)"
    licence = "no licence file seen"
    needs = computed(
        lambda policy: (
            frozenset({Need.KEYS}) | ({Need.SALIENCY} if policy.dynamic_by == "saliency" else set())
        )
    )
    archives = True
    recalls = True
    default_positions = "eager"

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """G tokens of every frame; markers stay."""
        states, saliency = arrival.embeds[arrival.visual].float(), self._saliency(arrival)
        _, cells = frames_of(arrival)
        embeds = arrival.embeds.clone()
        keep = torch.ones(arrival.frame.shape, dtype=torch.bool, device=embeds.device)
        static_term = torch.zeros(arrival.frame.shape, device=embeds.device)
        merged_into: dict[int, int] = {}
        for cell in cells:
            places, own = arrival.visual[cell], states[cell]
            before = memory.get("embeds")
            static = torch.zeros(len(cell), dtype=torch.bool, device=own.device)
            if before is not None:
                static = F.cosine_similarity(own, before, dim=-1) > self.static_similarity
            memory["embeds"] = own
            keep[places], static_term[places] = False, static.float()
            still, moving = static.nonzero()[:, 0], (~static).nonzero()[:, 0]
            n_still, n_moving = self.shares(len(still), len(moving))
            keep[places[moving[top_places(saliency[cell][moving], n_moving)]]] = True
            for centre, members in self._clusters(own[still], n_still):
                target = places[still[centre]]
                keep[target] = True
                if len(members):
                    sources = places[still[members]]
                    mean = arrival.embeds[sources].float().mean(0)
                    merged = self.centre_weight * arrival.embeds[target].float()
                    embeds[target] = (merged + (1 - self.centre_weight) * mean).to(embeds.dtype)
                    merged_into |= dict.fromkeys(sources.tolist(), int(target))
        kept = keep.nonzero()[:, 0]
        return Admission(kept, embeds[kept], {"static": static_term}, merged_into)

    def shares(self, static: int, dynamic: int) -> tuple[int, int]:
        """Tokens for the static and the dynamic path, clamped to what exists."""
        total = min(self.frame_tokens, static + dynamic)
        n_static = min(int(self.frame_tokens * static / max(static + dynamic, 1)), static)
        n_dynamic = min(total - n_static, dynamic)
        return min(total - n_dynamic, static), n_dynamic

    def score(self, view: LayerView) -> Scores:
        """Recency: the window slides, what leaves it is stored."""
        return recency(view)

    def codec(self) -> Codec | None:
        """Few bits, ranges by frame, head and channel."""
        return GroupQuantised(self.bits)

    def recall(self, question: RecallView) -> Int[Tensor, "head recalled"] | None:
        """The best groups: as many as `recall_tokens` hold at G tokens each, rounded up."""
        groups = -(-self.recall_tokens // self.frame_tokens)
        return recall_frames(question, groups, cosine=True)

    def _saliency(self, arrival: Arrival) -> Float[Tensor, " visual"]:
        if self.dynamic_by == "norm":
            return arrival.embeds[arrival.visual].float().norm(dim=-1)
        if arrival.saliency is None:
            raise PolicyError(
                "Policy 'streamingtom' ranks tokens by the vision tower's attention, which this model does not show; "
                "set dynamic_by=norm."
            )
        return arrival.saliency.float()

    def _clusters(
        self, states: Float[Tensor, "static hidden"], count: int
    ) -> list[tuple[int, Int[Tensor, " member"]]]:
        """Centres and, for each, the other tokens nearest to it."""
        if count == 0:
            return []
        distance = torch.cdist(states, states) / states.shape[1] ** 0.5
        centres = density_peaks(distance, count, self.neighbours, self.denser)
        others = torch.ones(len(states), dtype=torch.bool, device=states.device)
        others[centres] = False
        rest = others.nonzero()[:, 0]
        nearest = distance[rest][:, centres].argmin(-1)
        return [(int(c), rest[nearest == i]) for i, c in enumerate(centres)]


def density_peaks(
    distance: Float[Tensor, "token token"],
    count: int,
    neighbours: int,
    denser: Literal["higher", "lower"],
) -> Int[Tensor, " centre"]:
    """Tokens of largest ρ · δ, in order of place.

    ρ_i = exp(-mean squared distance to the nearest `neighbours` tokens, itself among them); δ_i is the distance to the
    nearest token of higher (or lower) density, or the largest distance where there is none. Ties go to the later token,
    where the original adds noise.
    """
    tokens = len(distance)
    nearest = distance.topk(min(neighbours, max(tokens - 1, 1)), largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    beyond = (
        density[None] > density[:, None] if denser == "higher" else density[None] < density[:, None]
    )
    delta = torch.where(beyond, distance, distance.max()).amin(-1)
    return top_places(density * delta, count)


def top_places(score: Float[Tensor, " token"], count: int) -> Int[Tensor, " kept"]:
    """Places of the `count` largest scores, ascending; ties go to the later place."""
    order = len(score) - 1 - score.flip(0).argsort(descending=True, stable=True)
    return order[:count].sort().values
