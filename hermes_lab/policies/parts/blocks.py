"""Frames as blocks of cached tokens: which block a token belongs to, mean keys, and taking whole blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """Tokens of one layer grouped by frame, oldest first.

    Attributes:
        of: block number of each token; markers and other tokens without a frame belong to the frame they precede.
        frame: frame of each block, -1 where no token of the layer has a frame.
        sizes: tokens of each block.
    """

    of: Int[Tensor, " token"]
    frame: Int[Tensor, " block"]
    sizes: Int[Tensor, " block"]

    def __len__(self) -> int:
        return len(self.frame)

    def tokens(self, chosen: Bool[Tensor, " block"]) -> Int[Tensor, " kept"]:
        """Indices of the tokens of the chosen blocks, in order."""
        return chosen[self.of].nonzero()[:, 0]


def frame_blocks(frame: Int[Tensor, " token"]) -> Blocks:
    """Group tokens by frame, without assuming that they are in order of frames."""
    owner = owners(frame)
    frames, of, sizes = owner.unique(sorted=True, return_inverse=True, return_counts=True)
    return Blocks(of, frames, sizes)


def owners(frame: Int[Tensor, " token"]) -> Int[Tensor, " token"]:
    """The frame that each token goes with: its own, else that of the next token that has one, else the last one's."""
    return frame[owner_places(frame)]


def owner_places(frame: Int[Tensor, " token"]) -> Int[Tensor, " token"]:
    """Index of the token whose frame each token goes with (see `owners`); itself where no token has a frame."""
    places = torch.arange(len(frame), device=frame.device)
    framed = places[frame >= 0]
    if len(framed) == 0:
        return places
    following = torch.searchsorted(framed, places).clamp_max(len(framed) - 1)
    return framed[following]


def block_means(
    states: Float[Tensor, "kv_head token dim"], blocks: Blocks
) -> Float[Tensor, "kv_head block dim"]:
    """Mean over the tokens of each block."""
    sums = states.new_zeros(states.shape[0], len(blocks), states.shape[2])
    sums.index_add_(1, blocks.of, states)
    return sums / blocks.sizes[None, :, None]


def order_newest(score: Float[Tensor, " block"]) -> Int[Tensor, " block"]:
    """Block numbers from the best score down; the newer block first on ties."""
    blocks = len(score)
    return blocks - 1 - score.flip(0).sort(descending=True, stable=True).indices


def fitting(order: Sequence[int], sizes: Sequence[int], count: int) -> list[int]:
    """The longest prefix of `order` whose blocks hold at most `count` tokens together."""
    taken: list[int] = []
    for block in order:
        count -= sizes[block]
        if count < 0:
            break
        taken.append(block)
    return taken


def match(
    queries: Float[Tensor, "query_head row dim"],
    keys: Float[Tensor, "kv_head block dim"],
    *,
    cosine: bool,
) -> Float[Tensor, " block"]:
    """Similarity of the mean query to each block's key, all heads concatenated, keys repeated for their query heads."""
    query = queries.float().mean(1)
    repeated = keys.repeat_interleave(query.shape[0] // keys.shape[0], 0)
    product = torch.einsum("hd,hbd->b", query, repeated)
    if not cosine:
        return product
    return product / (query.norm() * repeated.norm(dim=(0, 2))).clamp_min(1e-12)


def newest_frames(frame: Int[Tensor, " token"], frames: int, count: int) -> Int[Tensor, "1 kept"]:
    """Indices of the tokens of the newest `frames` frames; only the newest `count` of these if there are more."""
    blocks = frame_blocks(frame)
    chosen = torch.arange(len(blocks), device=frame.device) >= len(blocks) - frames
    places = blocks.tokens(chosen)
    return places[None, max(0, len(places) - count) :]
