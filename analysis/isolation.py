"""Streams whose frames cannot see each other in some layers, and the matched control: as many random tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hermes_lab.lab import Lab
from hermes_lab.segment import Segment
from hermes_lab.stream.session import StreamSession
from hermes_lab.tokens import Role


def isolated(
    lab: Lab,
    segments: Sequence[Segment],
    layers: Sequence[int],
    random: bool,
    seed: int,
) -> StreamSession:
    """A stream fed with frames blind to each other in some layers: every visual token sees its own frame only.

    With `random`, every token instead sees as many random visual tokens as its frame would have shown it (and
    itself): the matched control. Text stays visible.
    """
    session = StreamSession(lab, "full")
    generator = torch.Generator().manual_seed(seed)
    frame: list[int] = [-1] * session.protected_tokens

    def blind(scores: Tensor, hook: object) -> Tensor:
        key = torch.tensor(frame)
        query = key[-scores.shape[2] :]
        return scores.masked_fill(mask_for(query, key).to(scores.device), float("-inf"))

    memo: dict[int, Tensor] = {}

    def mask_for(query: Tensor, key: Tensor) -> Tensor:
        if len(key) not in memo:  # one draw for all layers of a chunk
            memo.clear()
            memo[len(key)] = blind_mask(query, key, generator if random else None)
        return memo[len(key)]

    first = 0
    with session.hooks([(f"blocks.{layer}.attn.hook_attn_scores", blind) for layer in layers]):
        for segment in segments:
            visual = segment.role == Role.VISUAL
            frame += np.where(visual, segment.frame + first, -1).tolist()
            first += len(segment.time_s)
            session.feed_segment(segment)
    return session


def blind_mask(query: Tensor, key: Tensor, generator: torch.Generator | None) -> Tensor:
    """Keys that each query must not see, [query, key]; frames are numbers, text is -1."""
    rows, keys = len(query), len(key)
    earlier = torch.arange(keys)[None] <= torch.arange(keys - rows, keys)[:, None]
    foreign = (query[:, None] != key[None]) & (query[:, None] >= 0) & (key[None] >= 0)
    if generator is None:
        return foreign
    own = earlier & ~foreign & (key[None] >= 0)
    pool = earlier & (query[:, None] >= 0) & (key[None] >= 0)
    self_ = torch.arange(keys)[None] == torch.arange(keys - rows, keys)[:, None]
    draw = torch.rand(rows, keys, generator=generator).masked_fill(~pool, -1).masked_fill(self_, 2)
    rank = draw.argsort(-1, descending=True).argsort(-1)
    return pool & (rank >= own.sum(-1, keepdim=True))
