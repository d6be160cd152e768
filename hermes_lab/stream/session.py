"""A stream run: feed frames, let a policy decide what each layer keeps, ask at any time.

```python
lab = hermes_lab.load("pocket")
run = StreamSession(lab, policy="hermes", record="runs/first")  # 32 frames' worth of tokens per layer
for chunk in video.open("clip.mp4", fps=1).chunks(16):
    snapshot = run.feed(chunk)
answer = run.ask("What was the first object?")
```
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.engine.attention import Knockout
from hermes_lab.engine.forward import Wants
from hermes_lab.engine.hooks import FwdHooks, HookBoard
from hermes_lab.errors import LabError, reason_of
from hermes_lab.lab import Lab
from hermes_lab.policies.base import Policy
from hermes_lab.retention.checks import check_choice
from hermes_lab.retention.positions import PositionRule
from hermes_lab.segment import Segment
from hermes_lab.snapshot import Answer, Snapshot
from hermes_lab.stream import arguments, asking, default_budget
from hermes_lab.stream.arguments import NextPosition
from hermes_lab.stream.arguments import RecordLevel as RecordLevel
from hermes_lab.stream.feeding import Frames as Frames
from hermes_lab.stream.feeding import images_and_times
from hermes_lab.stream.reading import logits_of
from hermes_lab.stream.state import StreamState, start
from hermes_lab.stream.step import Step
from hermes_lab.stream.summaries import Summarizer, rows_wanted
from hermes_lab.stream.turns import Turns, turn
from hermes_lab.tokens import TokenTable
from hermes_lab.video import Frame

if TYPE_CHECKING:
    from transformer_lens import ActivationCache

    from hermes_lab.stream.recorder import Recorder


class StreamSession:
    """One stream through one model under one policy.

    One thread works on a session at a time, others wait for their turn; a policy, a hook or `on_token` that calls
    the session it runs in is refused. Forks are sessions of their own.

    Args:
        lab: a loaded model; sessions on one lab do not disturb each other.
        policy: a policy, or its name ("hermes", "fifo(budget_tokens=512)"). One that needs a budget and has none is
            given 32 frames' worth at the first feed (see `hermes_lab.stream.default_budget`).
        chunk_frames: how many frames a feed step is meant to take (recorded; `feed` takes what it is given).
        positions: position rule; None: the policy's default.
        record: folder of a new recording; None: nothing is written.
        record_level: "summary", or "rows" to keep full attention rows of questions as well.
        record_rows: layers whose rows are kept at level "rows"; None: all.
        overwrite: replace an existing recording.
        seed: of every random choice.
        system: system prompt instead of the model's own.
        next_position: "counter" never reuses a position; "last_kept" continues after the last kept token, as
            HERMES' released code does.
        keep_visual: keep every chunk's visual tokens in memory, so that `replay` needs no encoding.
        evaluation: allow policies that see the future question (upper bounds).
        source: what is being streamed, for the manifest.
        fps: frames sampled per second, for the manifest.

    Raises:
        LabError: an argument that cannot be.
        PolicyError: unknown policy, impossible budget or position rule.
        RecordingError: the folder exists or cannot be written.
    """

    def __init__(
        self,
        lab: Lab,
        policy: Policy | str = "full",
        *,
        chunk_frames: int = 16,
        positions: PositionRule | str | None = None,
        record: str | Path | None = None,
        record_level: RecordLevel = "summary",
        record_rows: Sequence[int] | None = None,
        overwrite: bool = False,
        seed: int = 0,
        system: str | None = None,
        next_position: NextPosition = "counter",
        keep_visual: bool = False,
        evaluation: bool = False,
        source: Mapping[str, Any] | None = None,
        fps: float | None = None,
    ) -> None:
        arguments.of_kind("lab", lab, Lab, "a loaded model, such as hermes_lab.load('pocket')")
        arguments.check_session(
            chunk_frames=chunk_frames, record=record, record_level=record_level, record_rows=record_rows,
            seed=seed, system=system, next_position=next_position, source=source, fps=fps,
            overwrite=overwrite, keep_visual=keep_visual, evaluation=evaluation,
        )  # fmt: skip
        self.turns = Turns()
        self.lab = lab
        self.engine = lab.engine
        self.chunk_frames, self.seed = int(chunk_frames), int(seed)
        self.next_position: NextPosition = next_position
        self.keep_visual = keep_visual
        self.evaluation = evaluation
        self.knockouts: list[Knockout] = []
        self.future_question: str | None = None
        self.board = HookBoard(self.engine.layers)
        self.snapshot: Snapshot | None = None
        self.record_s = 0.0
        self.notes = lab.notes  # of the next snapshot
        self._system = system
        self.frames_per_group = self.engine.adapter.frame_layout(96, 96).frames_per_group
        self._stream = start(self.engine, system)
        self.policy: Policy
        self.positions: PositionRule
        self.set_policy(policy, positions)
        self.record_level: RecordLevel = record_level if record is not None else "off"
        self._record_rows = rows_wanted(record_level, record_rows, self.engine.layers)
        self._recorder: Recorder | None = None
        if record is not None and record_level != "off":
            from hermes_lab.stream.recorder import open_recorder

            self._recorder = open_recorder(self, Path(record), source or {}, fps, overwrite)

    # --- the stream --------------------------------------------------------------------------
    @turn
    def feed(self, frames: Frames | Frame, times_s: Sequence[float] | None = None) -> Snapshot:
        """Encode a chunk, prefill it, and let the policy decide.

        If anything fails the step is undone: cache, token table and counters are as before.

        Times never run backwards. Where they start over (a second clip after the first), the new ones
        are shifted to follow what was fed before, by the spacing of the clip's own frames; a note of
        the snapshot says so.

        Args:
            frames: a chunk or frames from `hermes_lab.video`, or RGB arrays [H, W, 3] uint8.
            times_s: presentation times in seconds from the stream's beginning, instead of the frames'
                own; default for bare arrays: one second apart.

        Raises:
            LabError: no frames, a wrong shape or dtype, or times that cannot be.
            PolicyError: the policy broke its contract.
            RecordingError: the step could not be written; the stream goes on, and the next step tries again.
        """
        fed = images_and_times(frames, times_s, self._stream)

        def step() -> Snapshot:
            self._stream.shift_s = fed.shift_s
            snapshot = Step(self).run(fed.images, fed.times_s)
            return replace(snapshot, notes=(*snapshot.notes, fed.note)) if fed.note else snapshot

        return self._take(step, fed.images)

    @turn
    def feed_segment(self, segment: Segment) -> Snapshot:
        """Feed a chunk that was encoded before (replay); the vision encoder does not run."""
        arguments.of_kind("segment", segment, Segment, "a chunk encoded by the model's adapter")
        return self._take(lambda: Step(self).run_encoded(segment, 0.0), None)

    def _take(
        self, step: Callable[[], Snapshot], images: Sequence[npt.NDArray[np.uint8]] | None
    ) -> Snapshot:
        """Do a step wholly or not at all, then record it: a step that happened is owed to the recorder."""
        undo, policy, notes = self._stream.mark(), self.policy, self.notes
        recorder = self._recorder
        due = () if recorder is None else recorder.due
        try:
            snapshot = step()
            if recorder is not None:
                recorder.owe(snapshot, images)
        except BaseException:
            undo()
            self.policy, self.notes = policy, notes
            if recorder is not None:
                recorder.due = due
            raise
        self.snapshot, self.notes = snapshot, ()
        if recorder is not None:
            recorder.pay()
        return snapshot

    @turn
    def set_policy(self, policy: Policy | str, positions: PositionRule | str | None = None) -> None:
        """Choose the policy from the next decision on; what was already evicted stays evicted.

        Raises:
            PolicyError: unknown, or impossible here.
        """
        chosen = arguments.chosen_policy(policy)
        check_choice(chosen, self.engine.layers, self._stream.protected, self.evaluation)
        chosen, notes = default_budget.settle(chosen, self._stream)
        rule = chosen.default_positions if positions is None else positions
        self.positions = rule if isinstance(rule, PositionRule) else PositionRule.parse(rule)
        if self._stream.step:
            fields = ", ".join(f"{k}={v!r}" for k, v in chosen.config().items() if k != "policy")
            change = f"From this step on under {chosen.name}({fields}), {self.positions}."
            self.notes = (change, *notes)
        self.policy = chosen
        self._stream.judged, self._stream.budget_notes, self._stream.bound = None, notes, False

    @property
    def budget_notes(self) -> tuple[str, ...]:
        """What to know of the policy's budget so far: taken by default, smaller than a frame, never exceeded."""
        stream = self._stream
        return (*stream.budget_notes, *default_budget.never_exceeded(self.policy, stream))

    # --- questions -----------------------------------------------------------------------------
    @turn
    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 32,
        remember: bool = False,
        attention: bool | None = None,
        on_token: Callable[[str], None] | None = None,
        top: int = 5,
    ) -> Answer:
        """Answer a question from what is remembered now; the cache is bit-identical afterwards.

        Args:
            question: plain text; the model's chat template is put around it.
            max_new_tokens: an upper limit for the answer.
            remember: add question and answer to the history that guidance prompts may mention.
            attention: summarise what the question attended to; default: when recording.
            on_token: receives the text so far, token by token.
            top: how many of the likeliest first tokens to report.

        Raises:
            LabError: the question is empty or no text, no frame was fed yet, or an argument that cannot be.
        """
        return asking.answer(
            self, question, max_new_tokens=max_new_tokens, remember=remember,
            attention=attention, on_token=on_token, top=top,
        )  # fmt: skip

    def stream_answer(self, question: str, *, max_new_tokens: int = 32) -> Iterator[str]:
        """The answer so far, token by token, from what is remembered when the first token is asked for.

        Leaving the loop early, feeding frames and asking other questions between two tokens are all fine.

        Raises:
            LabError: as for `ask`.
        """
        asking.check(question, max_new_tokens)
        return asking.texts(self, question, max_new_tokens)

    @turn
    def question_logits(self, question: str) -> Float[Tensor, "new vocabulary"]:
        """Logits at every token of the question's turn; the last row predicts the answer's first token."""
        hidden = asking.prefill(self, question, self._wants())
        return logits_of(self.engine, hidden, self.board)

    @turn
    def reading_stream(self) -> StreamState:
        """The stream on a cache of its own, which a question may write to; tensors are shared, not copied."""
        return self._stream.for_reading(self.engine.new_cache())

    def _wants(self) -> Wants:
        return Wants(knockouts=tuple(self.knockouts), board=self.board)

    @turn
    def prefill_question(
        self, question: str, wants: Wants, stream: StreamState | None = None
    ) -> Float[Tensor, "new hidden"]:
        """Prefill a question's turn on a `reading_stream()`; None: a fresh one.

        Raises:
            LabError: the question is empty, or no frame was fed yet.
        """
        return asking.prefill(self, question, wants, stream)

    # --- hooks ---------------------------------------------------------------------------------
    @contextmanager
    def hooks(self, fwd_hooks: FwdHooks) -> Generator[StreamSession]:
        """Listen to, or edit, TransformerLens hook points inside the block (see `hermes_lab.engine.hooks`).

        Hooks belong to the session: they hear whoever works on it, from whichever thread (see `alone`).
        """
        with ExitStack() as heard:
            self.turns.take("hooks", lambda: heard.enter_context(self.board.hooks(fwd_hooks)))
            try:
                yield self
            finally:
                with self.turns.alone:  # another thread's pass keeps them to its end
                    heard.close()

    def alone(self) -> AbstractContextManager[Any]:
        """Keep other threads waiting during a block of several calls."""
        return self.turns.alone

    def run_with_cache(
        self, question: str, names_filter: str | Callable[[str], bool] | None = None
    ) -> tuple[Float[Tensor, "1 new vocabulary"], ActivationCache]:
        """Logits of a question's turn and the activations of its pass over the ragged cache.

        Args:
            question: plain text.
            names_filter: a hook name or a predicate over names; None: all of them.
        """
        from hermes_lab.lens import activation_cache

        return activation_cache(self, question, names_filter)

    # --- copies ----------------------------------------------------------------------------------
    @turn
    def fork(self, policy: Policy | str | None = None) -> StreamSession:
        """An independent session that continues from here; tensors are shared, nothing is recorded."""
        other = object.__new__(StreamSession)
        other.__dict__.update(self.__dict__)
        other.turns = Turns()
        other._stream = self._stream.fork(self.engine.new_cache())
        other._recorder = None
        other.record_level = "off"
        other.knockouts = list(self.knockouts)
        other.board = HookBoard(self.engine.layers)
        if policy is not None:
            other.set_policy(policy)
        return other

    def replay(
        self,
        policy: Policy | str,
        *,
        on_step: Callable[[StreamSession, Snapshot], None] | None = None,
        **options: Any,
    ) -> StreamSession:
        """The same stream from its start under another policy, from kept visual tokens.

        Args:
            policy: the other policy.
            on_step: called after every step of the new session, for example to ask questions on the way.
            options: further arguments of the new session.

        Raises:
            LabError: this session was not started with `keep_visual=True`.
        """
        if not self.keep_visual:
            raise LabError(
                "This session did not keep its visual tokens; start it with keep_visual=True to replay it."
            )
        settings: dict[str, Any] = {
            "chunk_frames": self.chunk_frames, "seed": self.seed, "system": self._system,
            "next_position": self.next_position, "evaluation": self.evaluation, "keep_visual": True,
        }  # fmt: skip
        other = StreamSession(self.lab, policy, **(settings | options))
        for chunk in self.turns.take("replay", lambda: self._stream.chunks):
            snapshot = other.feed_segment(chunk.segment)
            if on_step is not None:
                on_step(other, snapshot)
        return other

    # --- what is there -------------------------------------------------------------------------
    @property
    def table(self) -> TokenTable:
        """What every token is, under its global id."""
        return self._stream.table

    @property
    def stream(self) -> StreamState:
        """The stream's state; read it, do not change it."""
        return self._stream

    @property
    def protected_tokens(self) -> int:
        """Cached tokens of the system prefix, which are never evicted."""
        return self._stream.protected

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values over all layers."""
        return self._stream.cache.bytes

    def layer_ids(self, layer: int) -> Int[Tensor, "head token"]:
        """Global ids of all tokens that a layer holds, the system prefix included."""
        return self._stream.cache.states[layer].ids

    def _summarizer(self, group: str, stream: StreamState | None = None) -> Summarizer:
        stream = self._stream if stream is None else stream
        keep = self._record_rows if group == "question" else ()
        return Summarizer(
            group, lambda layer: stream.cache.stream_layers[layer].state, stream.table, self.engine.layers,
            self.engine.query_heads, stream.frames_seen, stream.now_s, keep,
        )  # fmt: skip

    def _clock(self) -> float:
        if self.engine.adapter.device.type == "cuda":
            torch.cuda.synchronize()  # kernels are queued: without it their time would be missed
        return time.perf_counter()

    # --- the end -------------------------------------------------------------------------------
    @turn
    def close(self, reason: str | None = None) -> None:
        """Finish the recording, if there is one; `reason` marks it as aborted.

        Raises:
            RecordingError: the disk refuses (with a `reason`, that is only logged).
        """
        if (recorder := self._recorder) is not None:
            try:
                recorder.close(reason)
            finally:  # a close that was interrupted may be repeated
                self._recorder = None if recorder.closed else recorder

    def __enter__(self) -> StreamSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(None if error is None else reason_of(error))
