"""A second dense target, inside the decoder: what each object is called, and what it did just now.

Direction, novelty and matching a word to what is seen are hard to learn from one-word answers alone. A third
of the way up the decoder, the frame token that holds an object is asked for its words (by the dot product
with their embeddings, which is what a question's words are made of), which way it moved, and whether it is
new or was recoloured. The heads are thrown away afterwards.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hermes_lab.training.config import TOKENS_PER_FRAME
from hermes_lab.training.vocabulary import WORDS
from hermes_lab.worlds import World
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS
from hermes_lab.worlds.render import corner
from hermes_lab.worlds.schedule import Thing

NOTHING = -100
_STILL, _LEFT, _RIGHT, _UP, _DOWN = range(5)
_OLD, _NEW, _RECOLOURED = range(3)
_SLACK_PX = 2
"""Steps between standing still and this are left out: a bounce can end where it began."""


def targets(world: World) -> Int[np.ndarray, "frame cell 4"]:
    """Per frame and cell: motion, news, kind and colour; `NOTHING` where there is no object or no answer."""
    from hermes_lab.training.perception import cells_of

    table = np.full((world.frames, TOKENS_PER_FRAME, 4), NOTHING)
    for t in range(world.frames):
        for cell, thing in cells_of(world, t).items():
            table[t, cell, 0] = _motion(world, thing, t)
            news = _NEW if thing.start == t else _RECOLOURED if thing.recoloured == t else _OLD
            table[t, cell, 1:] = news, thing.kind, thing.colour_at(t)
    return table


def _motion(world: World, thing: Thing, t: int) -> int:
    if thing.start == t:
        return NOTHING
    x1, y1, s1 = corner(world.schedule, thing, t)
    x0, y0, s0 = corner(world.schedule, thing, t - 1)
    dx, dy = x1 - x0 + (s1 - s0) / 2, y1 - y0 + (s1 - s0) / 2
    if max(abs(dx), abs(dy)) <= _SLACK_PX:
        step = thing.at[t - thing.start] - thing.at[t - 1 - thing.start]
        return NOTHING if step.any() else _STILL
    if abs(dx) >= abs(dy):
        return _LEFT if dx < 0 else _RIGHT
    return _UP if dy < 0 else _DOWN


class MotionHeads(nn.Module):
    """Linear readouts of frame tokens inside the decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.read = nn.Linear(width, 8)
        self.kinds = [WORDS.index(k) for k in KINDS]
        self.colours = [WORDS.index(c) for c in COLOUR_NAMES]

    def forward(
        self,
        tapped: Float[Tensor, "stream token width"],
        events: Int[Tensor, "stream frame cell 4"],
        embedding: Float[Tensor, "word width"],
    ) -> tuple[Tensor, float]:
        """Loss, and the share of motions read rightly; `embedding` is the decoder's own."""
        wanted = events.flatten(0, 2)
        there = wanted[:, 2] != NOTHING
        seen = self.norm(tapped.float()).flatten(0, 1)[there]
        wanted = wanted[there]
        motion, news = self.read(seen).split([5, 3], -1)
        loss = (
            F.cross_entropy(motion, wanted[:, 0])
            + F.cross_entropy(news, wanted[:, 1])
            + F.cross_entropy(seen @ embedding[self.kinds].T, wanted[:, 2])
            + F.cross_entropy(seen @ embedding[self.colours].T, wanted[:, 3])
        )
        there = wanted[:, 0] != NOTHING
        right = (motion[there].argmax(-1) == wanted[there, 0]).float().mean()
        return torch.nan_to_num(loss), float(torch.nan_to_num(right))
