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

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int
from torch import Tensor

from hermes_lab.engine.forward import Engine
from hermes_lab.engine.hooks import FwdHooks, HookBoard
from hermes_lab.engine.passes import Knockout, Wants
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
from hermes_lab.stream.run import Run, with_budget
from hermes_lab.stream.state import StreamState, start
from hermes_lab.stream.step import encode, take_step
from hermes_lab.stream.summaries import rows_wanted
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
        self.lab = lab
        self.turns = Turns()
        self.snapshot: Snapshot | None = None
        self._recorder: Recorder | None = None
        engine = lab.engine
        self._stream = start(engine, system)
        chosen, notes = self._chosen(arguments.chosen_policy(policy), evaluation)
        self._stream.budget_notes = notes
        records = record is not None and record_level != "off"
        self._run = Run(
            engine=engine, board=HookBoard(engine.layers), policy=chosen, positions=_rule(chosen, positions),
            frames_per_group=engine.adapter.frame_layout(96, 96).frames_per_group, system=system,
            chunk_frames=int(chunk_frames), seed=int(seed), next_position=next_position,
            keep_visual=keep_visual, evaluation=evaluation,
            record_level=record_level if records else "off",
            record_rows=rows_wanted(record_level, record_rows, engine.layers), notes=lab.notes,
        )  # fmt: skip
        if record is not None and records:
            from hermes_lab.stream.recorder import open_recorder

            self._recorder = open_recorder(
                Path(record), lab, self._run, self._stream,
                source=source or {}, fps=fps, overwrite=overwrite,
            )  # fmt: skip

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

        def chunk() -> tuple[Segment, float]:
            self._stream.shift_s = fed.shift_s
            return encode(self._run, fed.images, fed.times_s)

        return self._take(chunk, fed.images, (fed.note,) if fed.note else ())

    @turn
    def feed_segment(self, segment: Segment) -> Snapshot:
        """Feed a chunk that was encoded before (replay); the vision encoder does not run."""
        arguments.of_kind("segment", segment, Segment, "a chunk encoded by the model's adapter")
        return self._take(lambda: (segment, 0.0), None)

    def _take(
        self,
        encoded: Callable[[], tuple[Segment, float]],
        images: Sequence[npt.NDArray[np.uint8]] | None,
        notes: tuple[str, ...] = (),
    ) -> Snapshot:
        """Do a step wholly or not at all, then record it: a step that happened is owed to the recorder.

        Args:
            encoded: makes the chunk, and tells the seconds that it took.
            notes: what is to be said behind the step's own.
        """
        undo, recorder = self._stream.mark(), self._recorder
        due = () if recorder is None else recorder.due
        try:
            chunk, encode_s = encoded()
            run = with_budget(self._run, self._stream, chunk)
            snapshot = take_step(run, self._stream, chunk, encode_s)
            snapshot = snapshot.amended(notes=(*snapshot.notes, *notes))
            if recorder is not None:
                timings = replace(snapshot.timings, record_s=recorder.seconds)
                snapshot = snapshot.amended(timings=timings)
                recorder.owe(snapshot, run, images)
        except BaseException:
            undo()
            if recorder is not None:
                recorder.due = due
            raise
        self._run, self.snapshot = replace(self._run, policy=run.policy, notes=()), snapshot
        if recorder is not None:
            recorder.pay()
        return snapshot

    @turn
    def set_policy(self, policy: Policy | str, positions: PositionRule | str | None = None) -> None:
        """Choose the policy from the next decision on; what was already evicted stays evicted.

        Raises:
            PolicyError: unknown, or impossible here.
        """
        stream = self._stream
        chosen, budget_notes = self._chosen(arguments.chosen_policy(policy), self._run.evaluation)
        rule, notes = _rule(chosen, positions), self._run.notes
        if stream.step:
            fields = ", ".join(f"{k}={v!r}" for k, v in chosen.config().items() if k != "policy")
            change = f"From this step on under {chosen.name}({fields}), {rule}."
            notes = (change, *budget_notes)
        self._run = replace(self._run, policy=chosen, positions=rule, notes=notes)
        stream.judged, stream.budget_notes, stream.bound = None, budget_notes, False

    def _chosen(self, policy: Policy, evaluation: bool) -> tuple[Policy, tuple[str, ...]]:
        """A policy that can be used here, with its default budget if that is known yet, and what to say of it."""
        check_choice(policy, self.lab.engine.layers, self._stream.protected, evaluation)
        return default_budget.settle(policy, self._stream)

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
        arguments.flags(remember=remember)
        asked = asking.Asked(question, max_new_tokens, attention, on_token, top)
        made = asking.answer(self._run, self._stream, asked)
        if self._recorder is not None:
            self._recorder.answer(made)
        if remember:  # an answer that could not be recorded may be asked for again
            self._stream.history = (*self._stream.history, (question, made.text))
        return made

    def stream_answer(self, question: str, *, max_new_tokens: int = 32) -> Iterator[str]:
        """The answer so far, token by token, from what is remembered when the first token is asked for.

        Leaving the loop early, feeding frames and asking other questions between two tokens are all fine.

        Raises:
            LabError: as for `ask`.
        """
        asking.check(question, max_new_tokens)

        def start() -> Iterator[tuple[int, Tensor]]:
            beside = self._stream.beside()
            return asking.generate(self._run, beside, question, max_new_tokens)

        return asking.texts(self.turns, start, self.engine.adapter.decode)

    @turn
    def question_logits(self, question: str) -> Float[Tensor, "new vocabulary"]:
        """Logits at every token of the question's turn; the last row predicts the answer's first token."""
        run = self._run
        hidden = asking.prefill(run, self._stream.beside(), question, run.wants())
        return logits_of(run.engine, hidden, run.board)

    @turn
    def reading_stream(self) -> StreamState:
        """The stream on a cache of its own, which a question may write to; tensors are shared, not copied."""
        return self._stream.beside()

    @turn
    def prefill_question(
        self, question: str, wants: Wants, stream: StreamState | None = None
    ) -> Float[Tensor, "new hidden"]:
        """Prefill a question's turn on a `reading_stream()`; None: a fresh one.

        Raises:
            LabError: the question is empty, or no frame was fed yet.
        """
        beside = self._stream.beside() if stream is None else stream
        return asking.prefill(self._run, beside, question, wants)

    # --- hooks ---------------------------------------------------------------------------------
    @contextmanager
    def hooks(self, fwd_hooks: FwdHooks) -> Generator[StreamSession]:
        """Listen to, or edit, TransformerLens hook points inside the block (see `hermes_lab.engine.hooks`).

        Hooks belong to the session: they are called for work from any thread (see `alone`).
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
        from hermes_lab.stream.activations import activation_cache

        return activation_cache(self, question, names_filter)

    # --- copies ----------------------------------------------------------------------------------
    @turn
    def fork(self, policy: Policy | str | None = None) -> StreamSession:
        """An independent session that continues from here; tensors are shared, nothing is recorded."""
        other = ForkedSession(self)
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
        run = self._run
        if not run.keep_visual:
            raise LabError(
                "This session did not keep its visual tokens; start it with keep_visual=True to replay it."
            )
        settings: dict[str, Any] = {
            "chunk_frames": run.chunk_frames, "seed": run.seed, "system": run.system,
            "next_position": run.next_position, "evaluation": run.evaluation, "keep_visual": True,
        }  # fmt: skip
        other = StreamSession(self.lab, policy, **(settings | options))
        for chunk in self.turns.take("replay", lambda: self._stream.chunks):
            snapshot = other.feed_segment(chunk.segment)
            if on_step is not None:
                on_step(other, snapshot)
        return other

    # --- what is there -------------------------------------------------------------------------
    @property
    def run(self) -> Run:
        """How the stream is run from the next step on; a value, which nobody changes."""
        return self._run

    @property
    def stream(self) -> StreamState:
        """The stream's state; read it, do not change it."""
        return self._stream

    @property
    def engine(self) -> Engine:
        """Runs the model."""
        return self._run.engine

    @property
    def board(self) -> HookBoard:
        """The hook points."""
        return self._run.board

    @property
    def policy(self) -> Policy:
        """What decides what is kept (see `set_policy`)."""
        return self._run.policy

    @property
    def positions(self) -> PositionRule:
        """The position rule (see `set_policy`)."""
        return self._run.positions

    @property
    def knockouts(self) -> tuple[Knockout, ...]:
        """Tokens that are hidden from attention now (see `hermes_lab.lens.knockout`)."""
        return self._run.knockouts

    @knockouts.setter
    def knockouts(self, knockouts: Sequence[Knockout]) -> None:
        with self.turns.alone:  # a step of another thread ends first
            self._run = replace(self._run, knockouts=tuple(knockouts))

    @property
    def future_question(self) -> str | None:
        """The question that policies for evaluation may see."""
        return self._run.future_question

    @future_question.setter
    def future_question(self, question: str | None) -> None:
        with self.turns.alone:
            self._run = replace(self._run, future_question=question)

    @property
    def table(self) -> TokenTable:
        """What every token is, under its global id."""
        return self._stream.table

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


class ForkedSession(StreamSession):
    """A session that goes on from where another one stands; hooks stay behind, and nothing is recorded."""

    def __init__(self, other: StreamSession) -> None:
        self.lab, self.snapshot = other.lab, other.snapshot
        self.turns = Turns()
        self._recorder = None
        board = HookBoard(other.engine.layers)
        self._run = replace(other.run, board=board, record_level="off")
        self._stream = other.stream.fork()


def _rule(policy: Policy, positions: PositionRule | str | None) -> PositionRule:
    """The position rule that was asked for, else the policy's own."""
    rule = policy.default_positions if positions is None else positions
    return rule if isinstance(rule, PositionRule) else PositionRule.parse(rule)
