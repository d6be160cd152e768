"""Synthetic streams for the tests of recordings: seeded, without a model, and cheap to import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from hermes_lab.recording.format import Manifest, ModelInfo, SourceInfo
from hermes_lab.snapshot import (
    Answer,
    AttentionSummary,
    LayerChange,
    LayerDecision,
    MergeRecord,
    Snapshot,
    Timings,
)
from hermes_lab.tokens import Role, TokenTable


def manifest(**changes: Any) -> Manifest:
    """A manifest of a small model."""
    model = ModelInfo("tiny", "llava_onevision", 3, 4, 2, 8, 4, (2, 2), "abc123")
    values: dict[str, Any] = {
        "model": model,
        "policy": {"policy": "hermes", "budget_tokens": 12, "weights": [0.5, 0.5]},
        "positions": "lazy",
        "source": SourceInfo("clip.mp4", "file", "0" * 64),
        "chunk_frames": 2,
        "fps": 1.0,
        "dtype": "float32",
        "device": "cpu",
        "seed": 0,
        "prefix_tokens": 5,
    }
    return Manifest(**values | changes)


@dataclass(frozen=True)
class Stream:
    """A stream whose layers each keep their own tokens, by random scores, as a policy would make it.

    Attributes:
        heads: token sets a layer (1: shared by all KV heads).
        axes: rotary axes.
        budget: tokens that a layer holds after a step; None keeps everything.
        renumber: positions become contiguous after every step.
        summarise: "end" or "sorted" puts a synthesised token where the evicted ones were; "" makes none.
        protect: so many of the first tokens are never candidates.
        told: snapshots say what changed, as those of a session do.
    """

    seed: int = 0
    layers: int = 3
    heads: int = 1
    axes: int = 1
    query_heads: int = 4
    tokens_per_frame: int = 4
    chunk_frames: int = 2
    budget: int | None = 12
    renumber: bool = False
    summarise: str = ""
    protect: int = 0
    groups: tuple[str, ...] = ("chunk",)
    terms: tuple[str, ...] = ("recency", "attention")
    told: bool = True

    def play(self, steps: int) -> Iterator[tuple[Snapshot, TokenTable]]:
        """Feed some steps; the table grows in place, as a session's does."""
        rng = np.random.default_rng(self.seed)
        table = TokenTable()
        table.append(5, role=Role.SYSTEM)
        held = [np.empty((self.heads, 0), np.int64) for _ in range(self.layers)]
        positions = [np.empty((self.heads, self.axes, 0), np.int64) for _ in range(self.layers)]
        for step in range(steps):
            frames = tuple(range(step * self.chunk_frames, (step + 1) * self.chunk_frames))
            cells = np.arange(self.tokens_per_frame)
            new = np.concatenate(
                [
                    table.append(
                        len(cells), role=Role.VISUAL, frame=f, time_s=f, row=cells // 2, col=cells % 2, step=step,
                    )
                    for f in frames
                ]
            )  # fmt: skip
            decisions: list[LayerDecision] = []
            fresh = new[None] + 3 * np.arange(self.axes)[:, None]
            for layer in range(self.layers):
                held[layer] = np.concatenate([held[layer], new[None].repeat(self.heads, 0)], 1)
                positions[layer] = np.concatenate(
                    [positions[layer], fresh[None].repeat(self.heads, 0)], 2
                )
                if self.budget is not None and held[layer].shape[1] > self.budget:
                    decision, held[layer], positions[layer] = self._decide(
                        layer, step, held[layer], positions[layer], table, rng
                    )
                    decisions.append(decision)
                if self.renumber:
                    positions[layer] = np.broadcast_to(
                        np.arange(held[layer].shape[1]), positions[layer].shape
                    ).copy()
            snapshot = self._snapshot(step, frames, new, held, positions, decisions, rng)
            if self.told:
                snapshot = replace(snapshot, changes=self._changes(snapshot, fresh))
            yield snapshot, table

    def _decide(
        self,
        layer: int,
        step: int,
        held: np.ndarray,
        positions: np.ndarray,
        table: TokenTable,
        rng: np.random.Generator,
    ) -> tuple[LayerDecision, np.ndarray, np.ndarray]:
        assert self.budget is not None
        free = self.protect
        candidates = held[:, free:]
        shape = candidates.shape
        scores = rng.standard_normal(shape, np.float32)
        keep = self.budget - free - bool(self.summarise)
        best = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :keep], axis=1)
        kept = np.zeros(shape, np.bool_)
        np.put_along_axis(kept, best, True, 1)
        chosen = np.concatenate([np.arange(free)[None].repeat(len(held), 0), best + free], 1)
        survivors = np.take_along_axis(held, chosen, 1)
        where = np.take_along_axis(positions, chosen[:, None], 2)
        merged: tuple[MergeRecord, ...] = ()
        if self.summarise:
            gone = np.setdiff1d(candidates, candidates[kept])
            (new,) = table.append(1, role=Role.SUMMARY, step=step)
            merged = (MergeRecord(int(new), gone),)
            at = survivors.shape[1] if self.summarise == "end" else survivors.shape[1] // 2
            survivors = np.insert(survivors, at, new, axis=1)
            where = np.insert(where, at, 7, axis=2)
        decision = LayerDecision(
            layer,
            candidates,
            kept,
            scores,
            {name: rng.random(shape, np.float32) for name in self.terms},
            merged,
            self.budget,
        )
        return decision, survivors, where

    def _changes(self, snapshot: Snapshot, fresh: np.ndarray) -> tuple[LayerChange, ...]:
        """What a step did to each layer, as the engine notes it."""
        decided = {decision.layer: decision for decision in snapshot.decisions}
        changes: list[LayerChange] = []
        for layer, (ids, places) in enumerate(zip(snapshot.held, snapshot.positions, strict=True)):
            evicted, added = ids[:, :0], ids[0, :0]
            if (decision := decided.get(layer)) is not None:
                evicted = decision.candidates[~decision.kept].reshape(self.heads, -1)
                added = np.array([merge.id for merge in decision.merged], np.int64)
            between = len(added) and self.summarise == "sorted"
            changes.append(
                LayerChange(
                    arrived=snapshot.new_ids,
                    arrived_at=fresh,
                    evicted=evicted,
                    added=added,
                    added_at=np.full((self.axes, len(added)), 7, np.int64),
                    order=ids if between else ids[:, :0],
                    moved=ids if self.renumber else ids[:, :0],
                    moved_to=places if self.renumber else places[..., :0],
                )
            )
        return tuple(changes)

    def _snapshot(
        self,
        step: int,
        frames: tuple[int, ...],
        new: np.ndarray,
        held: list[np.ndarray],
        positions: list[np.ndarray],
        decisions: list[LayerDecision],
        rng: np.random.Generator,
    ) -> Snapshot:
        seen = frames[-1] + 1
        return Snapshot(
            step=step,
            frames=frames,
            frames_seen=seen,
            tokens_seen=seen * self.tokens_per_frame,
            time_s=float(frames[-1]),
            new_ids=new,
            held=tuple(rows.copy() for rows in held),
            positions=tuple(places.copy() for places in positions),
            decisions=tuple(decisions),
            attention=tuple(self.attention(group, seen, rng) for group in self.groups),
            budget_tokens=None if self.budget is None else (self.budget,) * self.layers,
            cache_bytes=sum(rows.size for rows in held) * 128,
            timings=Timings(0.01, 0.1 + 0.001 * step, 0.002, 0.003, 0.0),
        )

    def attention(self, group: str, frames: int, rng: np.random.Generator) -> AttentionSummary:
        """A summary in which old frames, as evicted ones, have no mass."""
        size = (self.layers, self.query_heads)
        mass = np.zeros((*size, frames), np.float32)
        recent = slice(max(0, frames - 4), None)
        mass[..., recent] = rng.random(mass[..., recent].shape, np.float32)
        return AttentionSummary(
            group,
            mass,
            rng.random((*size, len(Role)), np.float32),
            rng.random(size, np.float32),
            np.full(self.layers, frames * 4, np.int64),
            rng.random(size, np.float32),
            rng.random(size, np.float32),
            {1: rng.random((self.query_heads, 2, 6), np.float32)},
            {1: np.arange(6)[None]},
        )

    def answer(self, step: int, question: str = "What was first?") -> Answer:
        """An answered question."""
        rng = np.random.default_rng(step)
        return Answer(
            question=question,
            text="A red ball.",
            token_ids=(4, 8, 2),
            step=step,
            time_s=float(step),
            ttft_s=0.03 + step / 1000,
            tpot_s=0.02,
            first_logits=rng.standard_normal(64).astype(np.float32),
            top=(("A", 0.75), ("The", 0.125)),
            attention=self.attention("question", 2 * (step + 1), rng),
            attended_tokens=(17,) * self.layers,
            cache_bytes=4096,
            extra={"horizon": "long", "margin": np.arange(3, dtype=np.float32)},
        )


def differences(one: object, two: object, path: str = "") -> list[str]:
    """Where two values differ: fields, keys, types, shapes, dtypes or bits (NaN equals itself)."""
    if isinstance(one, np.ndarray) or isinstance(two, np.ndarray):
        a, b = np.asarray(one), np.asarray(two)
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return [] if same else [f"{path}: {a.dtype}{a.shape} {a!r} is not {b.dtype}{b.shape} {b!r}"]
    if is_dataclass(one) and is_dataclass(two):
        names = [f.name for f in fields(one)]
        return [
            d for n in names for d in differences(getattr(one, n), getattr(two, n), f"{path}.{n}")
        ]
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        if list(one) != list(two):
            return [f"{path}: keys {list(one)} are not {list(two)}"]
        return [d for key in one for d in differences(one[key], two[key], f"{path}[{key!r}]")]
    if isinstance(one, tuple) and isinstance(two, tuple) and len(one) == len(two):
        return [
            d
            for i, (a, b) in enumerate(zip(one, two, strict=True))
            for d in differences(a, b, f"{path}[{i}]")
        ]
    if isinstance(one, float) and isinstance(two, float) and np.isnan(one) and np.isnan(two):
        return []
    return [] if type(one) is type(two) and one == two else [f"{path}: {one!r} is not {two!r}"]
