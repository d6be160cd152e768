"""Streams to test on: noise frames, policies that do what a test says, and a session beside its reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hermes_lab import StreamSession
from hermes_lab.lab import Lab
from hermes_lab.policies.base import (
    UNBOUNDED,
    Admission,
    Arrival,
    LayerView,
    Policy,
    Scores,
)
from hermes_lab.segment import Segment
from hermes_lab.snapshot import Snapshot
from tests.reference.literal import Literal

QUESTION = "What happens?"
Images = npt.NDArray[np.uint8]


def noise(frames: int, seed: int) -> Images:
    """RGB frames of noise, [frame, 48, 64, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)


def scripted(choose: Callable[[LayerView], Tensor], **attributes: Any) -> Policy:
    """A policy that decides after every chunk and keeps what `choose` says; `attributes` override the rest."""
    body: dict[str, Any] = {
        "name": "scripted",
        "budgets": lambda self, layers: [UNBOUNDED] * layers,
        "due": lambda self, tokens, budgets: True,
        "score": lambda self, view: Scores(torch.zeros(view.ids.shape)),
        "select": lambda self, scores, count, view: choose(view),
        **attributes,
    }
    made = dataclass(frozen=True, kw_only=True)(type("Scripted", (Policy,), body))
    return made()


def same_everywhere(view: LayerView) -> Tensor:
    """A random two thirds, the same in all layers."""
    rng = torch.Generator().manual_seed(view.step)
    return torch.randperm(view.tokens, generator=rng)[: 2 * view.tokens // 3].sort().values[None]


def by_layer(view: LayerView) -> Tensor:
    """A random set of its own for each layer, of a length of its own."""
    rng = torch.Generator().manual_seed(100 * view.step + view.layer)
    count = view.tokens * (4 + view.layer) // 9
    return torch.randperm(view.tokens, generator=rng)[:count].sort().values[None]


def by_head(view: LayerView) -> Tensor:
    """A random set of its own for each layer and KV head."""
    rng = torch.Generator().manual_seed(100 * view.step + view.layer)
    count = view.tokens * (4 + view.layer) // 9
    return torch.stack(
        [
            torch.randperm(view.tokens, generator=rng)[:count].sort().values
            for _ in range(view.kv_heads)
        ]
    )


@dataclass
class Beside:
    """A session and the literal reference, fed alike; the reference forgets what the session says it forgot.

    Ids alone pass from the session to the reference: keys, values and positions are the reference's own.
    """

    lab: Lab
    folder: Path
    policy: Policy | str = "full"
    positions: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    sort_merged: bool = False
    chunks: list[tuple[Segment, Sequence[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = StreamSession(
            self.lab, self.policy, positions=self.positions, **self.options
        )
        self.reference = Literal(self.folder)
        self.prefix = self.lab.adapter.prefix()
        self.reference.feed(self.prefix, range(len(self.prefix)))

    def feed(self, images: Images) -> Snapshot:
        """One chunk through both."""
        start = self.session.stream.frames_seen
        times = [float(start + i) for i in range(len(images))]
        snapshot = self.session.feed(images, times)
        segment = self.arriving(self.lab.adapter.encode(images, times))
        self.chunks.append((segment, snapshot.new_ids.tolist()))
        self.reference.feed(segment, snapshot.new_ids)
        protected = len(self.prefix)
        for decision in snapshot.decisions:
            for made in decision.merged:
                self.reference.fold(
                    decision.layer, torch.from_numpy(made.sources), made.id,
                    sort=self.sort_merged, protected=protected,
                )  # fmt: skip
        for layer, held in enumerate(snapshot.held):
            front = torch.arange(protected).expand(len(held), -1)
            self.reference.keep(layer, torch.cat([front, torch.from_numpy(held)], 1))
            if layer in snapshot.reindexed:
                self.reference.renumber(layer, str(self.session.positions), protected)
        return snapshot

    def arriving(self, segment: Segment) -> Segment:
        """What admission makes of a chunk, in tests that have it."""
        return segment

    def question(self, text: str = QUESTION) -> Segment:
        """The turn that a question becomes."""
        return self.lab.adapter.question(text)

    def ask(self, text: str = QUESTION) -> tuple[Tensor, Tensor]:
        """Logits of a question's turn: the session's, and the reference's."""
        expected = self.reference.feed(self.question(text), store=False)
        return self.session.question_logits(text), expected

    def positions_of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Positions of all cached tokens, [kv_head, axis, token]: the session's, and the reference's."""
        kept = self.session.stream.cache.states[layer].positions
        expected = torch.stack([h.positions for h in self.reference.layers[layer].heads])
        return kept.expand(len(expected), -1, -1), expected


def admit_even(self: Policy, arrival: Arrival, memory: dict[str, Any]) -> Admission:
    """Let every other token in, explained by its index."""
    keep = torch.arange(0, len(arrival.frame), 2)
    return Admission(keep, terms={"index": torch.arange(len(arrival.frame)).float()})
