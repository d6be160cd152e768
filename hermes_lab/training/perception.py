"""Dense perception: what the tower must see in every pooled cell before the decoder learns to read it.

Targets are absolute (place in the frame, not in the cell): side and direction cannot be answered otherwise.
The heads are thrown away afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from hermes_lab.training.config import TOKENS_PER_FRAME, Recipe
from hermes_lab.training.data import camera_of, pixels, wear
from hermes_lab.training.vocabulary import WORDS
from hermes_lab.worlds import World
from hermes_lab.worlds.catalogue import COLOUR_NAMES, FIELD_PX, FRAME_PX, KINDS, SCENES
from hermes_lab.worlds.render import corner, hidden_share
from hermes_lab.worlds.schedule import Thing

_SIDE = int(TOKENS_PER_FRAME**0.5)
_FRAMES_PER_WORLD = 8
_WORLD_FRAMES = 48
_DENSITY = 1.8
"""Crowded frames teach more per frame."""
_EMPTY_WEIGHT = 0.25
_KIND_WORDS = [WORDS.index(k) for k in KINDS]
_COLOUR_WORDS = [WORDS.index(c) for c in COLOUR_NAMES]


@dataclass(frozen=True)
class Glimpses:
    """Single frames with what each of their cells shows (0 is nothing, else 1 + index)."""

    frames: Float[Tensor, "frame 3 side side"]
    colour: Int[Tensor, "frame cell"]
    kind: Int[Tensor, "frame cell"]
    place: Float[Tensor, "frame cell 2"]
    scene: Int[Tensor, " frame"]
    counter: Int[Tensor, " frame"]


def draw(recipe: Recipe, seeds: list[int]) -> Glimpses:
    """A few frames from each of several worlds."""
    shown: list[Tensor] = []
    cells: list[np.ndarray] = []
    places: list[np.ndarray] = []
    scenes: list[int] = []
    counters: list[int] = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 2])
        world = World.generate(seed, _WORLD_FRAMES, camera_of(rng, recipe), _DENSITY)
        times = rng.choice(_WORLD_FRAMES, _FRAMES_PER_WORLD, replace=False).tolist()
        px = pixels(np.stack([world.frame(t) for t in times]))
        shown.append(wear(px, rng) if rng.random() < recipe.worn_p else px)
        for t in times:
            cell, place = _targets(world, t)
            cells.append(cell)
            places.append(place)
            scenes.append(world.schedule.scene_at(t))
            counters.append(world.schedule.counter_at(t))
    table = torch.from_numpy(np.stack(cells))
    return Glimpses(
        torch.cat(shown),
        table[..., 0],
        table[..., 1],
        torch.from_numpy(np.stack(places)),
        torch.tensor(scenes),
        torch.tensor(counters),
    )


def cells_of(world: World, t: int) -> dict[int, Thing]:
    """The nearest object whose middle lies in each cell of frame `t`, where it is mostly visible."""
    found: dict[int, Thing] = {}
    for thing in sorted(world.schedule.visible(t), key=lambda o: o.depth):
        if hidden_share(world.schedule, thing, t) <= 0.6:
            cx, cy = _middle(world, thing, t)
            found[int(cy * _SIDE // FRAME_PX) * _SIDE + int(cx * _SIDE // FRAME_PX)] = thing
    return found


def _middle(world: World, thing: Thing, t: int) -> tuple[float, float]:
    x, y, size = corner(world.schedule, thing, t)
    cx = min(max(x + size / 2, 0), FRAME_PX - 1)
    return cx, min(max(y + size / 2, 0), FIELD_PX - 1)


def _targets(world: World, t: int) -> tuple[np.ndarray, np.ndarray]:
    cell = np.zeros((TOKENS_PER_FRAME, 2), np.int64)
    place = np.zeros((TOKENS_PER_FRAME, 2), np.float32)
    for at, thing in cells_of(world, t).items():
        cx, cy = _middle(world, thing, t)
        cell[at] = (1 + thing.colour_at(t), 1 + thing.kind)
        place[at] = (cx / FRAME_PX * 2 - 1, cy / FRAME_PX * 2 - 1)
    return cell, place


class Heads(nn.Module):
    """Linear readouts of pooled tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = (len(COLOUR_NAMES) + 1, len(KINDS) + 1, 2)
        self.cell = nn.Linear(width, sum(self.sizes))
        self.scene = nn.Linear(width, len(SCENES))
        self.counter = nn.Linear(_SIDE * width, 10)

    def forward(
        self, tokens: Float[Tensor, "frame cell width"], seen: Glimpses
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss, and accuracies over cells that show something."""
        colour, kind, place = self.cell(tokens).split(self.sizes, -1)
        there = seen.kind > 0
        scene = self.scene(tokens.mean(1))
        counter = self.counter(tokens[:, -_SIDE:].flatten(1))
        off = (place - seen.place)[there]
        loss = (
            3 * _cells(colour, seen.colour)
            + 6 * _cells(kind, seen.kind)
            + 6 * off.square().mean()
            + 0.3 * F.cross_entropy(scene, seen.scene)
            + 0.4 * F.cross_entropy(counter, seen.counter)
            + 1e-3 * tokens.square().mean()
        )
        with torch.no_grad():
            found = {
                "loss": float(loss),
                "colour": _right(colour[there], seen.colour[there]),
                "kind": _right(kind[there], seen.kind[there]),
                "colour_majority": _majority(seen.colour[there]),
                "kind_majority": _majority(seen.kind[there]),
                "place_px": float(off.abs().mean()) * FRAME_PX / 2,
                "scene": _right(scene, seen.scene),
                "counter": _right(counter, seen.counter),
            }
        return loss, found


def name_cells(
    tokens: Float[Tensor, "frame cell width"], seen: Glimpses, words: Float[Tensor, "word width"]
) -> tuple[Tensor, float]:
    """Surprise at the words for what cells show, by the dot product with their embeddings, and share of kinds
    named rightly.

    It shapes what the decoder is given: the embedding of a word and of what it names come close.
    """
    there = seen.kind > 0
    shown = F.rms_norm(tokens[there], tokens.shape[-1:])
    kinds = shown @ words[_KIND_WORDS].T
    colours = shown @ words[_COLOUR_WORDS].T
    loss = F.cross_entropy(kinds, seen.kind[there] - 1)
    loss = loss + F.cross_entropy(colours, seen.colour[there] - 1)
    return loss, _right(kinds, seen.kind[there] - 1)


def _cells(logits: Tensor, target: Tensor) -> Tensor:
    weight = torch.ones(logits.shape[-1], device=logits.device)
    weight[0] = _EMPTY_WEIGHT
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight=weight)


def _majority(target: Tensor) -> float:
    """Accuracy of always naming the commonest."""
    return float(target.bincount().max()) / len(target) if len(target) else 0.0


def _right(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(-1) == target).float().mean())
