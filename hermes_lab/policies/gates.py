"""Gates that act on whole frames before the decoder: policies of their own, and first parts of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Admission, Arrival, LayerView, Need, Policy, Scores, setting
from hermes_lab.policies.parts.blocks import owners


def visual_features(arrival: Arrival) -> Float[Tensor, "visual feature"]:
    """Vision-tower features of a chunk in fp32.

    Raises:
        PolicyError: the model's adapter gave none.
    """
    if arrival.features is None:
        raise PolicyError(
            "This policy reads vision-tower features, but none came with the chunk; declare Need.FEATURES and use a "
            "model family whose tower shows them."
        )
    return arrival.features.float()


def frames_of(arrival: Arrival) -> tuple[Int[Tensor, " frame"], Int[Tensor, "frame cell"]]:
    """The chunk's frames in order, and for each the places of its tokens among the chunk's visual tokens.

    Raises:
        PolicyError: frames of one chunk have different numbers of tokens.
    """
    frame = arrival.frame[arrival.visual]
    frames, sizes = frame.unique(return_counts=True)
    if len(frames) == 0 or bool((sizes != sizes[0]).any()):
        raise PolicyError(
            "The frames of a chunk have different numbers of tokens; feed frames of one size together."
        )
    return frames, frame.argsort(stable=True).reshape(len(frames), -1)


def whole_frames(arrival: Arrival, frames: Int[Tensor, " admitted"]) -> Int[Tensor, " kept"]:
    """Places of all tokens of some frames within the chunk, their markers with them."""
    return torch.isin(owners(arrival.frame), frames).nonzero()[:, 0]


@dataclass(frozen=True, kw_only=True)
class EveryNth(Policy):
    """Admit every n-th frame of the stream. Source: baseline (temporal subsampling).

    A family that merges frames into one grid of tokens (Qwen) has each grid counted as one frame.
    """

    stride: int = setting(2, "Frames from one that is admitted to the next.", minimum=1)

    name = "every_nth"
    title = "admit every n-th frame"
    source = "baseline"
    granularity = "frame"

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """The first frame of the stream and every n-th after it."""
        frames, _ = frames_of(arrival)
        number = int(memory.get("seen", 0)) + torch.arange(len(frames), device=frames.device)
        memory["seen"] = int(memory.get("seen", 0)) + len(frames)
        return Admission(whole_frames(arrival, frames[number % self.stride == 0]))

    def score(self, view: LayerView) -> Scores:
        """Recency, where a budget is set."""
        return recency(view)


@dataclass(frozen=True, kw_only=True)
class MergeSimilar(Policy):
    """Average runs of consecutive frames that look alike into one frame, before the decoder.

    A frame joins the run before it when the cosine of their mean features exceeds the threshold; the run enters as its
    newest frame, each cell the mean of the run's embeddings. Source: StreamMem (arXiv 2508.15717), input filter.

    Deviation: runs end with the chunk, since earlier frames are already in the cache.
    """

    similarity: float = setting(
        0.95,
        "Cosine above which consecutive frames merge (StreamMem's δ).",
        minimum=-1.0,
        maximum=1.0,
    )

    name = "merge_similar"
    title = "average consecutive frames that look alike"
    source = "StreamMem (arXiv 2508.15717), input filter"
    licence = "none published"
    granularity = "frame"
    needs = frozenset({Need.FEATURES})

    def admit(self, arrival: Arrival, memory: dict[str, Any]) -> Admission | None:
        """One frame for each run."""
        return merge_similar(arrival, self.similarity)

    def score(self, view: LayerView) -> Scores:
        """Recency, where a budget is set."""
        return recency(view)


def merge_similar(arrival: Arrival, similarity: float) -> Admission:
    """Average runs of consecutive frames whose mean features have a cosine above `similarity`."""
    frames, cells = frames_of(arrival)
    means = F.normalize(visual_features(arrival)[cells].mean(1), dim=-1)
    alike = (means[1:] * means[:-1]).sum(-1) > similarity
    run = torch.cat([alike.new_zeros(1, dtype=torch.long), (~alike).long().cumsum(0)])
    embeds = arrival.embeds.clone()
    newest: list[int] = []
    merged_into: dict[int, int] = {}
    for number in run.unique().tolist():
        members = (run == number).nonzero()[:, 0]
        places = arrival.visual[cells[members]]  # [member, cell]
        target = places[-1]
        embeds[target] = arrival.embeds[places].float().mean(0).to(embeds.dtype)
        newest.append(int(frames[members[-1]]))
        for source in places[:-1]:
            merged_into.update(zip(source.tolist(), target.tolist(), strict=True))
    keep = whole_frames(arrival, torch.tensor(newest, device=frames.device))
    return Admission(keep, embeds[keep], merged_into=merged_into)


def recency(view: LayerView) -> Scores:
    """The rank of each token in temporal order, newest highest."""
    rank = torch.arange(view.tokens, dtype=torch.float32, device=view.ids.device)
    order = rank.expand(view.ids.shape)
    return Scores(order, {"recency": order})
