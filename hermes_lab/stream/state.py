"""Where a stream stands: everything a session must restore to undo a step, or copy to fork."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from hermes_lab.brief import Brief
from hermes_lab.engine.cache import LayerState
from hermes_lab.engine.forward import Engine
from hermes_lab.retention.standing import Standing
from hermes_lab.segment import Segment
from hermes_lab.stream.frame_size import FrameSize
from hermes_lab.tokens import Role, TokenTable


@dataclass(frozen=True, repr=False)
class EncodedChunk(Brief):
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
class StreamState(Standing):
    """The mutable heart of a session.

    Attributes:
        prefix: what each layer held after the system prefix.
        tokens_seen: tokens that entered the decoder.
        shift_s: what is added to the times of the clip that is being fed, in seconds.
        chunks: the chunks that are kept as encoded, for policies that read frames afresh and for replay.
        memory: what the policy's `admit` keeps between chunks.
        history: (question, answer) pairs that were asked to be remembered.
        frame_size: what a frame of the newest chunk takes, as encoded.
        judged: the frame that the policy's budget was last compared with; None since the policy was chosen.
        budget_notes: what was said of the budget since the policy was chosen.
        bound: whether any layer exceeded its budget since the policy was chosen.
        said: notes that are said once per stream, and were.
    """

    prefix: tuple[LayerState, ...] = ()
    tokens_seen: int = 0
    shift_s: float = 0.0
    chunks: tuple[EncodedChunk, ...] = ()
    memory: dict[str, Any] = field(default_factory=dict[str, Any])
    history: tuple[tuple[str, str], ...] = ()
    frame_size: FrameSize | None = None
    judged: FrameSize | None = None
    budget_notes: tuple[str, ...] = ()
    bound: bool = False
    said: frozenset[str] = frozenset()

    def fork(self) -> StreamState:
        """A copy that shares tensors; neither side sees the other's future."""
        memory = copy.deepcopy(self.memory)
        return replace(self.beside(), table=self.table.copy(), memory=memory)

    def beside(self) -> StreamState:
        """The stream as it is now, on a cache of its own that a question may write to; tensors are shared."""
        return replace(self, cache=self.cache.beside())

    def mark(self) -> Callable[[], None]:
        """A function that puts everything back, once, to where it is now."""
        states, length = self.cache.states, len(self.table)
        before = replace(self, memory=copy.deepcopy(self.memory))

        def undo() -> None:
            for known in fields(self):
                setattr(self, known.name, getattr(before, known.name))
            self.cache.states = states
            self.table.truncate(length)

        return undo
