"""Where a stream stands: everything a session must restore to undo a step, or copy to fork."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from hermes_lab.brief import Brief
from hermes_lab.engine.cache import LayerState, StreamCache
from hermes_lab.segment import Segment
from hermes_lab.stream.default_budget import FrameSize
from hermes_lab.tokens import Role, TokenTable

if TYPE_CHECKING:
    from hermes_lab.engine.forward import Engine


@dataclass(frozen=True, repr=False)
class Chunk(Brief):
    """One chunk as it was encoded, before any policy saw it.

    Attributes:
        segment: decoder inputs, positions relative to the chunk's start.
        ids: global id of each token, -1 where a policy did not admit it.
        first_frame: global index of the chunk's first frame.
        frames: how many frames it holds.
    """

    segment: Segment
    ids: tuple[int, ...]
    first_frame: int
    frames: int


def start(engine: Engine, system: str | None) -> StreamState:
    """A stream before its first frame: the system prefix is cached and protected."""
    prefix = engine.adapter.prefix(system)
    stream = StreamState(engine.new_cache(), TokenTable(), protected=len(prefix))
    ids = stream.table.append(len(prefix), role=Role.SYSTEM)
    if len(prefix):
        engine.forward(stream.cache, prefix, "prefix", torch.as_tensor(ids))
    stream.prefix = stream.cache.states
    return stream


@dataclass
class StreamState:
    """The mutable heart of a session.

    Attributes:
        cache: keys and values with ids and positions.
        table: what every token is.
        prefix: what each layer held after the system prefix.
        protected: cached tokens of the system prefix, never candidates.
        step, frames_seen, tokens_seen, now_s: counters of the stream.
        shift_s: what is added to the times of the clip that is being fed, in seconds.
        tokens_per_frame: visual tokens of the newest frame.
        chunks: the chunks that are kept as encoded, for policies that read frames afresh and for replay.
        memory: what the policy's `admit` keeps between chunks.
        history: (question, answer) pairs that were asked to be remembered.
        frame_size: what a frame of the newest chunk takes, as encoded.
        judged: the frame that the policy's budget was last compared with; None since the policy was chosen.
        budget_notes: what was said of the budget since the policy was chosen.
        bound: whether any layer exceeded its budget since the policy was chosen.
        said: notes that are said once per stream, and were.
    """

    cache: StreamCache
    table: TokenTable
    prefix: tuple[LayerState, ...] = ()
    protected: int = 0
    step: int = 0
    frames_seen: int = 0
    tokens_seen: int = 0
    now_s: float = 0.0
    shift_s: float = 0.0
    tokens_per_frame: int = 0
    chunks: tuple[Chunk, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict[str, Any])
    history: tuple[tuple[str, str], ...] = ()
    frame_size: FrameSize | None = None
    judged: FrameSize | None = None
    budget_notes: tuple[str, ...] = ()
    bound: bool = False
    said: frozenset[str] = frozenset()

    @property
    def held_tokens(self) -> list[int]:
        """Tokens of the stream that each layer holds, the system prefix left out."""
        return [state.tokens - self.protected for state in self.cache.states]

    def fork(self, cache: StreamCache) -> StreamState:
        """A copy on `cache` (a new, empty one) that shares tensors; neither side sees the other's future."""
        cache.states = self.cache.states
        return StreamState(
            cache=cache,
            table=self.table.copy(),
            prefix=self.prefix,
            protected=self.protected,
            step=self.step,
            frames_seen=self.frames_seen,
            tokens_seen=self.tokens_seen,
            now_s=self.now_s,
            shift_s=self.shift_s,
            tokens_per_frame=self.tokens_per_frame,
            chunks=self.chunks,
            memory=copy.deepcopy(self.memory),
            history=self.history,
            frame_size=self.frame_size,
            judged=self.judged,
            budget_notes=self.budget_notes,
            bound=self.bound,
            said=self.said,
        )

    def for_reading(self, cache: StreamCache) -> StreamState:
        """The same stream on `cache` (a new, empty one), for a question: what is done there stays there."""
        cache.states = self.cache.states
        return replace(self, cache=cache)

    def mark(self) -> Callable[[], None]:
        """A function that puts everything back to where it is now."""
        states, length = self.cache.states, len(self.table)
        counters = (
            self.step, self.frames_seen, self.tokens_seen, self.now_s, self.shift_s,
            self.tokens_per_frame, self.frame_size, self.judged, self.budget_notes, self.bound,
        )  # fmt: skip
        chunks, memory = self.chunks, copy.deepcopy(self.memory)
        history, said = self.history, self.said

        def undo() -> None:
            self.cache.states = states
            self.table.truncate(length)
            (
                self.step, self.frames_seen, self.tokens_seen, self.now_s, self.shift_s,
                self.tokens_per_frame, self.frame_size, self.judged, self.budget_notes, self.bound,
            ) = counters  # fmt: skip
            self.chunks, self.memory = chunks, memory
            self.history, self.said = history, said

        return undo
