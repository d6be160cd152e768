"""A third dense target, higher in the decoder: what is worth remembering about what is in view.

Questions about the past ask for facts of an object's first moment (what came before it, what was beside it,
the scene, the counter) long after. One-word answers teach a decoder to keep such facts in short streams only.
So, above the middle of the decoder, the frame token that holds an object is asked for the facts of that
object's appearance and, by the dot product with word embeddings, for its name, by which a question looks it
up; the last token of every frame is asked for the latest events. The heads are thrown away afterwards; what
stays is that an object's keys and values carry its history.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hermes_lab.training.config import TOKENS_PER_FRAME
from hermes_lab.training.motion import NOTHING
from hermes_lab.training.vocabulary import WORDS
from hermes_lab.worlds import World
from hermes_lab.worlds.catalogue import COLOUR_NAMES, KINDS, SCENES
from hermes_lab.worlds.schedule import Schedule, Thing

_SPAN_FRAMES = 8
_SPANS = 16
"""Times are asked for in spans of 8 frames, 16 of them; later ones have no target."""
_MOST = 4

OBJECT_FACTS: dict[str, int] = {
    "came after": len(KINDS),
    "was met by": len(KINDS),
    "scene": len(SCENES),
    "counter": 10,
    "which of its kind": _MOST,
    "first colour": len(COLOUR_NAMES),
    "time": _SPANS,
}
"""Facts of an object's appearance, asked of the token that holds it, with their numbers of answers."""
FRAME_FACTS: dict[str, int] = {
    "appeared last": len(KINDS),
    "left last": len(KINDS),
    "changed last": len(KINDS),
    "scene before": len(SCENES),
    "time of this scene's first visit": _SPANS,
}
"""Facts of a moment, asked of the last token of its frame."""


def _span(t: int) -> int:
    return t // _SPAN_FRAMES if t < _SPAN_FRAMES * _SPANS else NOTHING


def _appearances(schedule: Schedule) -> dict[int, list[int]]:
    """Facts of every object's appearance, by the object's identity, in the order of `OBJECT_FACTS`."""
    found: dict[int, list[int]] = {}
    met: dict[int, int] = {}
    before = NOTHING
    for thing in schedule.things:
        others = [o for o in schedule.visible(thing.start) if o is not thing]
        nth = met.get(thing.kind, 0)
        met[thing.kind] = nth + 1
        found[id(thing)] = [
            before,
            others[0].kind if len(others) == 1 else NOTHING,
            schedule.scene_at(thing.start),
            schedule.counter_at(thing.start),
            min(nth, _MOST - 1),
            thing.colour,
            _span(thing.start),
        ]
        before = thing.kind
    return found


def _latest(things: list[Thing], times: list[int], t: int) -> int:
    """Kind of the object whose event was the latest up to `t`."""
    past = [(time, o.kind) for o, time in zip(things, times, strict=True) if 0 <= time <= t]
    return max(past)[1] if past else NOTHING


def targets(world: World) -> Int[np.ndarray, "frame cell fact"]:
    """Per frame and cell, answers to `OBJECT_FACTS`, then `FRAME_FACTS`, then the object's kind.

    `NOTHING` where there is none.
    """
    from hermes_lab.training.perception import cells_of

    schedule = world.schedule
    objects = len(OBJECT_FACTS)
    table = np.full((world.frames, TOKENS_PER_FRAME, objects + len(FRAME_FACTS) + 1), NOTHING)
    facts = _appearances(schedule)
    things = list(schedule.things)
    starts, ends, changes = (
        [o.start for o in things],
        [o.end for o in things],
        [o.recoloured for o in things],
    )
    visited: dict[int, int] = {}
    for t in range(world.frames):
        for cell, thing in cells_of(world, t).items():
            table[t, cell, :objects] = facts[id(thing)]
            table[t, cell, -1] = thing.kind
        past = [scene for start, scene, _ in schedule.scenes if start <= t]
        first = visited.setdefault(past[-1], t)
        table[t, -1, objects:-1] = (
            _latest(things, starts, t),
            _latest(things, ends, t),
            _latest(things, changes, t),
            past[-2] if len(past) > 1 else NOTHING,
            _span(first),
        )
    return table


class MemoryHeads(nn.Module):
    """Linear readouts of frame tokens above the middle of the decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)
        self.sizes = [*OBJECT_FACTS.values(), *FRAME_FACTS.values()]
        self.read = nn.Linear(width, sum(self.sizes))
        self.kinds = [WORDS.index(k) for k in KINDS]

    def forward(
        self,
        tapped: Float[Tensor, "stream token width"],
        facts: Int[Tensor, "stream frame cell fact"],
        embedding: Float[Tensor, "word width"],
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss, and the share of right answers per fact; `embedding` is the decoder's own."""
        wanted = facts.flatten(0, 2)
        asked = (wanted != NOTHING).any(-1)
        wanted = wanted[asked]
        seen = self.norm(tapped.float()).flatten(0, 1)[asked]
        answers = (*self.read(seen).split(self.sizes, -1), seen @ embedding[self.kinds].T)
        loss = tapped.new_zeros((), dtype=torch.float32)
        right: dict[str, float] = {}
        for name, logits, answer in zip(
            (*OBJECT_FACTS, *FRAME_FACTS, "name"), answers, wanted.T, strict=True
        ):
            there = answer != NOTHING
            if there.any():
                loss = loss + F.cross_entropy(logits[there], answer[there])
                right[name] = float((logits[there].argmax(-1) == answer[there]).float().mean())
        return loss, right
