"""The thread that runs a stream: it takes commands from a queue and publishes frozen views under a lock.

Nothing here knows Streamlit. The page reads `latest()`; everything it wants done goes through `submit` or the
named commands, which the thread carries out between two frames. An error ends in the view, never in silence.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch

from dashboards.live.commands import Commands, nothing
from dashboards.live.pictures import Picture, Pictures
from dashboards.live.stream_view import UNPACED, StreamSettings, StreamView
from dashboards.live.token_states import Tracker
from dashboards.parts import snippets
from dashboards.parts.limits import check_chunk, limits
from dashboards.parts.policy_text import full_spec
from hermes_lab import policies, video
from hermes_lab.errors import LabError, RecordingError
from hermes_lab.lab import Lab
from hermes_lab.stream.session import StreamSession
from hermes_lab.video import Frame, FrameSource

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class StreamWorker:
    """One stream in one thread. `stop()` ends it; it may be called from any thread and twice."""

    _all: ClassVar[weakref.WeakSet[StreamWorker]] = weakref.WeakSet()

    @classmethod
    def running(cls) -> list[StreamWorker]:
        """Every worker of this process whose thread is alive."""
        return [worker for worker in cls._all if worker.alive]

    def __init__(self, settings: StreamSettings, lab_of: Callable[[str], Lab]) -> None:
        self.settings = settings
        self._lab_of = lab_of
        self._lock = threading.Lock()
        self._view = StreamView()
        self._commands = Commands()
        self._stop = threading.Event()
        self._playing = not settings.start_paused
        self._steps_wanted = 0
        self._speed = settings.speed
        self._tracker = Tracker()
        self._pictures = Pictures()
        self._durations: list[tuple[float, int]] = []
        self._waiting: list[Frame] = []
        self._next_due = 0.0
        self._notes: dict[str, str] = {}  # as they are shown, in the order in which they were said
        self.session: StreamSession | None = None
        self._thread = threading.Thread(target=self._run, name="hermes-stream", daemon=True)
        self._thread.start()
        self._all.add(self)

    # --- for pages ------------------------------------------------------------------------------
    def latest(self) -> StreamView:
        """The newest view."""
        with self._lock:
            return self._view

    def picture(self, frame: int) -> Picture | None:
        """A frame that was streamed, small; None where it is too long ago."""
        return self._pictures.get(frame)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    # Commands return at once; the future is done when the view says what came of them.
    def play(self) -> Future[None]:
        """Go on."""
        return self._command(self._set_playing, True)

    def pause(self) -> Future[None]:
        """Stand still after the chunk that is being fed."""
        return self._command(self._set_playing, False)

    def step(self) -> Future[None]:
        """Feed one chunk, then pause; the future is done before the chunk is fed."""
        return self._command(self._want_step)

    def set_speed(self, speed: float) -> Future[None]:
        """Stream seconds per second; 0: as fast as the model goes."""
        return self._command(self._set_speed, speed)

    def set_policy(self, config: dict[str, Any]) -> Future[None]:
        """Change the policy from the next decision on; a refusal appears as the view's error."""
        return self._command(self._set_policy, config)

    def ask(self, question: str, max_new_tokens: int = 24) -> Future[None]:
        """Ask the stream between two chunks; that it was asked is in the view at once, the answer when it is there."""
        return self._command(
            self._ask, question, max_new_tokens, first=lambda: self._publish(answering="")
        )

    def submit(self, work: Callable[[StreamSession], T]) -> Future[T]:
        """Run something on the session in its own thread, between two chunks."""
        done: Future[T] = Future()

        def carry_out() -> None:
            try:
                if self.session is None:
                    raise LabError("The stream has no session yet; wait until the model is loaded.")
                done.set_result(work(self.session))
            except BaseException as error:
                done.set_exception(error)

        if self._stop.is_set() or not self._commands.put(carry_out):
            done.set_exception(LabError("The stream has been stopped; start it again."))
        return done

    def snippet(self, *imports: str, record: str = "") -> str:
        """Python that brings a new `session` as far as this stream is (see `snippets.stream`)."""
        settings, view = self.settings, self.latest()
        fed = settings.max_frames if view.snapshot is None else view.snapshot.frames_seen
        return snippets.stream(
            settings.source, settings.model, view.policy or full_spec(settings.policy), fps=settings.fps,
            chunk_frames=settings.chunk_frames, max_frames=fed, record=record, imports=imports,
        )  # fmt: skip

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread and finish the recording."""
        self._stop.set()
        self._commands.put(nothing)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    # --- the thread ------------------------------------------------------------------------------
    def _command(
        self, call: Callable[..., None], *arguments: Any, first: Callable[[], None] = nothing
    ) -> Future[None]:
        """Let the thread do something; a thread that has ended does nothing more."""
        done: Future[None] = Future()

        def carry_out() -> None:
            try:
                call(*arguments)
            finally:
                done.set_result(None)

        if not self._commands.put(carry_out, first):
            done.set_result(None)
        return done

    def _publish(self, **changes: Any) -> None:
        with self._lock:
            self._view = replace(self._view, seq=self._view.seq + 1, **changes)

    def _run(self) -> None:
        torch.set_num_threads(1)  # on few cores the page would starve otherwise
        settings = self.settings
        reason: str | None = None
        try:
            with video.open(
                settings.source, fps=settings.fps, max_frames=settings.max_frames, limits=limits()
            ) as source:
                self._publish(
                    expected_frames=source.estimated_frames,
                    source_name=settings.label,
                    source_kind=source.kind,
                    notes=self._noted(source.notes),
                )
                self._start_session(source)
                self._publish(status="playing" if self._playing else "paused")
                self._stream(source)
        except LabError as error:
            reason = str(error)
            self._publish(status="failed", error=reason)
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            _LOG.exception("The stream stopped")
            self._publish(
                status="failed",
                error=f"The stream stopped on an unexpected error ({reason}); start it again.",
            )
        finally:
            if self.session is not None:
                try:
                    self.session.close(reason)
                except RecordingError as error:
                    self._publish(error=str(error))
            if settings.record is not None:
                with suppress(OSError):  # it holds a recording
                    settings.record.rmdir()
            if self._stop.is_set():
                self._publish(status="stopped")
            self._refuse_the_rest()

    def _start_session(self, source: FrameSource) -> None:
        settings = self.settings
        lab = self._lab_of(settings.model)
        policy = policies.from_config(settings.policy)
        self.session = StreamSession(
            lab,
            policy,
            chunk_frames=settings.chunk_frames,
            positions=settings.positions,
            record=settings.record,
            record_level=settings.record_level,
            seed=settings.seed,
            fps=settings.fps,
            source={"name": settings.label, "kind": source.kind, "sha256": source.sha256()},
        )
        self._publish(
            policy=full_spec(policy.config()),
            layers=self.session.engine.layers,
            every_s=self._every_s(),
        )

    def _stream(self, source: FrameSource) -> None:
        frames: Iterator[Frame] = iter(source)
        ended = False
        self._next_due = time.monotonic()
        while not self._stop.is_set():
            self._work_off(block=ended or not self._running())
            if self._stop.is_set():
                return
            if ended or not self._running():
                continue
            if not self._wait_for_due():
                continue
            if len(self._waiting) < self.settings.chunk_frames:
                frame = next(frames, None)
                if frame is None:
                    ended = True
                else:
                    self._arrive(frame)
            full = len(self._waiting) >= self.settings.chunk_frames
            if self._waiting and (full or ended):
                self._feed()
                self._publish(notes=self._noted(source.notes))
            if ended and not self._waiting:
                self._publish(
                    status="finished", error=source.damage or self._view.error, next_due=None
                )

    def _running(self) -> bool:
        return self._playing or self._steps_wanted > 0

    def _work_off(self, block: bool) -> None:
        """Carry out what the page asked for; waits for the first command where there is nothing else to do."""
        command = self._commands.take(0.5 if block else 0.0)
        while command is not None:
            command()
            command = self._commands.take()

    def _wait_for_due(self) -> bool:
        """Whether the next frame is due; commands that come meanwhile are carried out at once."""
        if self._speed == UNPACED or self._steps_wanted:
            return True
        now = time.monotonic()
        if now >= self._next_due:
            # after a slow step the clock starts afresh: the stream falls behind rather than rushes
            self._next_due = max(self._next_due, now - 1.0) + self._every_s()
            return True
        command = self._commands.take(min(self._next_due - now, 0.5))
        if command is not None:
            command()
        return False

    def _arrive(self, frame: Frame) -> None:
        if frame.index == 0:
            check_chunk(frame, self.settings.chunk_frames)
        self._waiting.append(frame)
        self._pictures.add(frame.index, frame.image)
        self._publish(
            on_the_way=tuple((f.index, f.time_s) for f in self._waiting),
            frames_arrived=frame.index + 1,
            next_due=self._due(),
        )

    def _due(self) -> float | None:
        paced = self._speed != UNPACED and self._playing
        return self._next_due if paced else None

    def _every_s(self) -> float:
        return 1 / (self.settings.fps * self._speed) if self._speed != UNPACED else 0.0

    def _feed(self) -> None:
        assert self.session is not None
        session, started = self.session, time.perf_counter()
        error: str | None = None
        try:
            snapshot = session.feed(self._waiting)
        except RecordingError as problem:
            error = f"{problem} The stream goes on without recording."
            session.close(str(problem))
            assert session.snapshot is not None
            snapshot = session.snapshot
        except LabError as problem:
            # the session is as it was: another policy may take the same frames
            self._playing, self._steps_wanted = False, 0
            self._publish(status="paused", error=str(problem), next_due=None)
            return
        self._durations = [
            *self._durations[-7:],
            (time.perf_counter() - started, len(self._waiting)),
        ]
        self._waiting = []
        table = session.table.copy()
        ids, states = self._tracker.add(snapshot, table)
        self._steps_wanted = max(0, self._steps_wanted - 1)
        seconds, count = (sum(column) for column in zip(*self._durations, strict=True))
        self._publish(
            snapshot=snapshot,
            table=table,
            ids=ids,
            states=states,
            on_the_way=(),
            tokens_per_frame=session.stream.tokens_per_frame,
            frames_per_s=count / max(seconds, 1e-9),
            cache_bytes=(*self._view.cache_bytes, (snapshot.time_s, snapshot.cache_bytes)),
            status="playing" if self._running() else "paused",
            error=error or self._view.error,  # one that a page never drew must not be lost
            notes=self._noted(snapshot.notes, snapshot.time_s),
        )

    def _noted(self, notes: Iterable[str], time_s: float | None = None) -> tuple[str, ...]:
        """All that was said of this stream so far, each sentence once, with the time at which a step said it first."""
        for note in notes:
            self._notes.setdefault(note, note if time_s is None else f"At {time_s:.0f} s: {note}")
        return tuple(self._notes.values())

    # --- commands, in the thread ----------------------------------------------------------------
    def _set_playing(self, playing: bool) -> None:
        self._playing, self._steps_wanted = playing, 0
        self._next_due = time.monotonic()
        if self._view.status in ("playing", "paused"):
            error = None if playing else self._view.error
            self._publish(
                status="playing" if playing else "paused", error=error, next_due=self._due()
            )

    def _want_step(self) -> None:
        self._playing = False
        self._steps_wanted += 1
        self._publish(error=None, next_due=None)

    def _set_speed(self, speed: float) -> None:
        self._speed = speed
        self._next_due = time.monotonic()
        self._publish(next_due=self._due(), every_s=self._every_s())

    def _set_policy(self, config: dict[str, Any]) -> None:
        assert self.session is not None
        of_this_policy = self.session.budget_notes
        try:
            self.session.set_policy(policies.from_config(config))
        except LabError as error:
            self._publish(error=f"The policy stays as it was. {error}")
        else:
            for note in of_this_policy:
                self._notes.pop(note, None)
            changed = full_spec(self.session.policy.config())
            self._publish(policy=changed, notes=self._noted(()), error=None)

    def _ask(self, question: str, max_new_tokens: int) -> None:
        assert self.session is not None
        self._publish(answering="")
        try:
            answer = self.session.ask(
                question,
                max_new_tokens=max_new_tokens,
                attention=True,
                on_token=lambda text: self._publish(answering=text),
            )
        except LabError as error:
            self._publish(answering=None, error=str(error))
        else:
            self._publish(answering=None, answers=(*self._view.answers, answer), error=None)

    def _refuse_the_rest(self) -> None:
        """Commands that nobody will carry out any more are answered, so that nobody waits for them."""
        self.session = None
        for command in self._commands.close():
            with suppress(Exception):  # it needs a session; the view says why there is none
                command()
        self._publish(answering=None)
