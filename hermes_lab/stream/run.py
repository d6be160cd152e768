"""How a stream is run: the model, the policy and the rules of one session, as a value.

A step or a question is handed a `Run` and a `StreamState` and needs nothing else of the session. The session puts
another `Run` in the place of this one where something is to change; a fork is a `replace`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from hermes_lab.engine.forward import Engine
from hermes_lab.engine.hooks import HookBoard
from hermes_lab.engine.passes import Knockout, Wants
from hermes_lab.policies.base import Policy
from hermes_lab.retention.positions import PositionRule
from hermes_lab.segment import Segment
from hermes_lab.stream import default_budget
from hermes_lab.stream.arguments import NextPosition, RecordLevel
from hermes_lab.stream.frame_size import frame_size
from hermes_lab.stream.state import StreamState
from hermes_lab.stream.summaries import Summarizer


@dataclass(frozen=True)
class Run:
    """How a stream is run.

    Attributes:
        engine: runs the model.
        board: hook points; hooks are called in every pass.
        frames_per_group: frames that the vision encoder takes together (2 for Qwen-VL).
        policy, positions: what is kept, and at which positions.
        system: system prompt instead of the model's own.
        chunk_frames: how many frames one step is meant to take.
        seed: of every random choice.
        next_position: where new tokens go on: "counter" or "last_kept".
        keep_visual: whether every chunk stays as encoded, for replay.
        evaluation: whether the policy may see the future question.
        future_question: the question that such a policy sees.
        knockouts: tokens that are hidden from attention now.
        record_level: what is recorded: "off", "summary" or "rows".
        record_rows: layers whose rows of a question are kept.
        notes: what the next snapshot is to say.
    """

    engine: Engine
    board: HookBoard
    policy: Policy
    positions: PositionRule
    frames_per_group: int = 1
    system: str | None = None
    chunk_frames: int = 16
    seed: int = 0
    next_position: NextPosition = "counter"
    keep_visual: bool = False
    evaluation: bool = False
    future_question: str | None = None
    knockouts: tuple[Knockout, ...] = ()
    record_level: RecordLevel = "off"
    record_rows: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def records(self) -> bool:
        """Whether what happens is recorded."""
        return self.record_level != "off"

    def wants(self) -> Wants:
        """What every pass of this run gets: its knockouts and its hook points."""
        return Wants(knockouts=self.knockouts, board=self.board)

    def clock(self) -> float:
        """Seconds of a clock, when all work that was given to the device is done."""
        if self.engine.adapter.device.type == "cuda":
            torch.cuda.synchronize()  # kernels are queued: without it their time would be missed
        return time.perf_counter()

    def summarizer(self, group: str, stream: StreamState) -> Summarizer:
        """Collects the attention of one group of query rows over what `stream` holds."""
        keep = self.record_rows if group == "question" else ()
        return Summarizer(
            group, lambda layer: stream.cache.stream_layers[layer].state, stream.table, self.engine.layers,
            self.engine.query_heads, stream.frames_seen, stream.now_s, keep,
        )  # fmt: skip


def with_budget(run: Run, stream: StreamState, chunk: Segment) -> Run:
    """The run whose policy has the default budget if it needs one, now that a chunk says what a frame takes."""
    stream.frame_size = frame_size(chunk, run.frames_per_group) or stream.frame_size
    policy, notes = default_budget.settle(run.policy, stream)
    stream.budget_notes += notes
    return replace(run, policy=policy, notes=(*run.notes, *notes))
