"""A nudge for a while: when questions name an object, some head above the middle looks at it.

A question about an object's past needs a head that finds the object's tokens by its name, among thousands.
From one-word answers alone none formed in streams of 128 frames: answers were right for the first objects of
a stream and guesses for later ones (the model card has the figures). So for a part of the decoder's training,
the attention on the named object is pushed up in that head of `LAYERS` layers which gives it most over all
questions of a batch (one head for all: the best head per question would let heads share out the objects among
them, whatever is asked). Which head that is is left to training, and afterwards nothing asks for it any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hermes_lab.training.branches import Branches
from hermes_lab.worlds import Question
from hermes_lab.worlds.catalogue import KINDS

ASKING: tuple[str, ...] = (
    "long_together",
    "long_before",
    "long_scene_when",
    "long_counter_when",
)
"""Question types that name one object and ask for something that its tokens hold only in later layers."""
LAYERS = 2
"""Layers that are nudged, from the first that sees what the memory target asked for. Left free to settle in any
layer above, the head went to the last but one, where too little is left to make an answer of what it finds."""
_KIND = {k: i for i, k in enumerate(KINDS)}


class Lookups:
    """Who looks at the objects that a group of branches names: give `heed` to `branch_pass`, ask for `mass`."""

    def __init__(
        self,
        group: Branches,
        questions: Sequence[Sequence[Question]],
        kinds: Int[Tensor, "stream frame_token"],
        prefix_tokens: int,
        first_layer: int,
    ) -> None:
        rows: list[tuple[int, int, int]] = []
        named: list[Tensor] = []
        due = (group.labels != -100).nonzero().tolist()
        owner = group.question.tolist()
        last = (-1, -1)
        for s, b, token in due:
            number = owner[s][b][token]
            question = questions[s][number]
            if (s, number) == last or question.type not in ASKING:
                continue
            last = (s, number)
            rows.append((s, b, token))
            named.append(kinds[s] == next(_KIND[w] for w in question.text.split() if w in _KIND))
        self.rows = torch.tensor(rows, device=kinds.device).view(-1, 3).T
        self.named: Bool[Tensor, "row frame_token"] = (
            torch.stack(named) if named else kinds.new_zeros(0, kinds.shape[1], dtype=torch.bool)
        )
        self.prefix_tokens, self.layers = prefix_tokens, range(first_layer, first_layer + LAYERS)
        self._mass: list[Tensor] = []

    def heed(
        self,
        layer: int,
        weights: Float[Tensor, "stream kv_head group branch token key"],
        cached: int,
    ) -> None:
        """Take note of one layer's attention; its first `cached` keys are prefix and frames."""
        if layer not in self.layers or not self.named.shape[0]:
            return
        s, b, token = self.rows
        seen = weights[s, :, :, b, token, self.prefix_tokens : cached].float().flatten(1, 2)
        self._mass.append((seen * self.named[:, None, : seen.shape[-1]]).sum(-1))

    def mass(self) -> Float[Tensor, "row head"]:
        """Per named object, the share of attention that its tokens get from every head of the nudged layers."""
        return torch.cat(self._mass, -1) if self._mass else self.named.new_zeros(0, 1).float()


def loss(groups: Sequence[Lookups]) -> tuple[Tensor, float]:
    """Surprise at the looks of the head that looks best, and the mean share of its attention."""
    found = [g.mass() for g in groups if len(g.named)]
    if not found:
        return torch.zeros(()), 0.0
    mass = torch.cat(found)
    best = (mass + 1e-4).log().mean(0)
    head = int(best.argmax())
    return -best[head], float(mass[:, head].detach().mean())
