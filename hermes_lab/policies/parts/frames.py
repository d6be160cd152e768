"""A chunk's frames before the decoder: their tokens, their features, and merging those that look alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import Admission, Arrival
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
