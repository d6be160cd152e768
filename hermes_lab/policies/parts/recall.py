"""Retrieval at the question: the frames whose keys match it best."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.policies.base import RecallView
from hermes_lab.policies.parts.blocks import block_means, frame_blocks, match, order_newest


def recall_frames(
    question: RecallView, frames: int, *, cosine: bool, unit: int = 1
) -> Int[Tensor, "1 recalled"] | None:
    """Tokens of the frames whose mean key matches the question's mean query best; None for an empty memory.

    Args:
        unit: consecutive frames that are scored by their mean and retrieved together.
    """
    view = question.view
    if view.tokens == 0:
        return None
    blocks = frame_blocks(view.frame[0])
    keys = block_means(view.keys_unrotated().float(), blocks)
    score = match(question.queries, keys, cosine=cosine)
    group = torch.arange(len(blocks), device=score.device) // unit
    best = order_newest(_means(score, group))[: max(1, frames // unit)]
    return blocks.tokens(torch.isin(group, best))[None]


def _means(score: Float[Tensor, " block"], group: Int[Tensor, " block"]) -> Float[Tensor, " unit"]:
    sizes = group.bincount()
    return score.new_zeros(len(sizes)).index_add_(0, group, score) / sizes
