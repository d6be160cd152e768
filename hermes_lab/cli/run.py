"""`hermes-lab run`: the main job. Stream a video, let a policy decide, ask questions, write a recording."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from hermes_lab.brief import bytes_text, span_text
from hermes_lab.cli.console import (
    errors,
    finish_unread,
    milliseconds,
    note,
    print_json,
    say,
)
from hermes_lab.cli.ending import ends_when_told
from hermes_lab.cli.preparing import RunOptions, prepare
from hermes_lab.cli.questions import Question, asked_late, split_at
from hermes_lab.cli.strip import held_share, render
from hermes_lab.errors import RecordingError

if TYPE_CHECKING:
    from hermes_lab.snapshot import Answer, Snapshot
    from hermes_lab.stream.session import StreamSession
    from hermes_lab.video import Chunk, FrameSource

STRIP_COLUMNS = 64
PARTIAL_INPUT = 3  # exit status when the input broke off or the recording could not go on


@dataclass
class Run:
    """What happens between the first frame and the last answer.

    Attributes:
        notes: what a person should know of the budget, the source and the questions, said at the end.
    """

    options: RunOptions
    session: StreamSession
    source: FrameSource
    questions: list[Question]
    show: bool
    answers: list[Answer] = field(default_factory=list["Answer"])
    snapshots: int = 0
    notes: tuple[str, ...] = ()
    problem: str | None = None

    def stream(self) -> None:
        """Feed everything, asking each question when the stream reaches its second."""
        waiting = sorted(
            (q for q in self.questions if q.at_s is not None), key=lambda q: q.at_s or 0
        )
        progress = Progress(
            TextColumn("streaming"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"),
            TimeElapsedColumn(), TextColumn("{task.fields[rate]}"), console=errors,
        )  # fmt: skip
        task = progress.add_task("frames", total=self.source.estimated_frames, rate="")
        view = Live(progress, console=errors, refresh_per_second=8, transient=True)
        with self.source, view if self.show else _Quiet():
            for chunk in self.source.chunks(self.options.chunk_frames):
                for part, asked in split_at(chunk, waiting):
                    if part:
                        snapshot = self._feed(part)
                        if self.show:
                            rate = len(part) / max(_busy(snapshot), 1e-9)
                            progress.update(task, advance=len(part), rate=f"{rate:.0f} frames/s")
                            view.update(Group(self._panel(snapshot), progress))
                    for question in asked:
                        self._ask(question)
                        waiting.remove(question)
        newest = self.session.snapshot
        if self.show and newest is not None:
            errors.print(self._panel(newest))
        if newest is not None:
            every_s = 1 / self.options.fps
            self.notes += tuple(asked_late(waiting, newest.time_s, every_s))
        self.notes += (*self.session.budget_notes, *self.source.notes)
        for question in [*waiting, *(q for q in self.questions if q.at_s is None)]:
            self._ask(question)

    def _feed(self, part: Chunk) -> Snapshot:
        self.snapshots += 1
        try:
            return self.session.feed(part)
        except RecordingError as error:
            # what was recorded stays; the stream is worth more than the recording of its rest
            self.problem = f"{error} The stream went on without recording."
            self.session.close(str(error))
            assert self.session.snapshot is not None
            return self.session.snapshot

    def _ask(self, question: Question) -> None:
        try:
            answer = self.session.ask(question.text, max_new_tokens=self.options.max_new_tokens)
        except RecordingError as error:
            self.problem = f"{error} The answers are printed but not recorded."
            self.session.close(str(error))
            answer = self.session.ask(question.text, max_new_tokens=self.options.max_new_tokens)
        self.answers.append(answer)
        if self.show:
            say(
                Text.assemble(
                    (f"[{answer.time_s:7.1f} s] ", "dim"), (question.text, "bold"), "  ",
                    (answer.text or "(empty answer)", "cyan bold"), _verdict(answer.text, question.truth),
                    (f"   TTFT {milliseconds(answer.ttft_s)}", "dim"),
                )
            )  # fmt: skip

    def _panel(self, snapshot: Snapshot) -> Panel:
        from hermes_lab.snapshot import UNBOUNDED

        session = self.session
        frame = session.table.column("frame")
        share = held_share(snapshot.held, frame, snapshot.frames_seen, STRIP_COLUMNS)
        evicted = sum(int((~d.kept).sum() // d.kept.shape[0]) for d in snapshot.decisions)
        held = sum(ids.shape[1] for ids in snapshot.held)
        budgets = snapshot.budget_tokens
        bounded = [b for b in budgets or () if b < UNBOUNDED]
        budget = span_text(bounded) if bounded else "no limit"
        times = snapshot.timings
        lines = [
            *render(share),
            "",
            f"chunk {snapshot.step + 1}, {snapshot.time_s:.1f} s: "
            f"holds {held} tokens over {len(snapshot.held)} layers (budget per layer: {budget}), "
            f"evicted {evicted} now, {bytes_text(snapshot.cache_bytes)}",
            f"encode {milliseconds(times.encode_s)}   prefill {milliseconds(times.prefill_s)}   "
            f"probe {milliseconds(times.probe_s)}   decide {milliseconds(times.decide_s)}",
            *snapshot.notes,
        ]
        model = session.lab.name.rstrip("/").rsplit("/", 1)[-1]
        title = f"{model} under {session.policy.name}: what each layer still holds"
        return Panel(
            Text("\n".join(lines)), title=Text(title), title_align="left",
            subtitle="layers down, stream time across; blank = forgotten, █ = all kept",
            subtitle_align="left",
        )  # fmt: skip


def _verdict(text: str, truth: str | None) -> tuple[str, str]:
    if truth is None:
        return "", ""
    return (" ✓ right", "green") if text == truth else (f" ✗ it was {truth}", "red")


class _Quiet:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def _busy(snapshot: Snapshot) -> float:
    t = snapshot.timings
    return t.encode_s + t.prefill_s + t.probe_s + t.decide_s


def run(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="VIDEO",
            help="A video file, a folder of images, a camera (`0`), an RTSP/HTTP URL, or a procedural world "
            "(`world:seed=7,frames=120`). Default: the bundled two-minute clip with some of its questions.",
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="`pocket`, a local folder or a hub id; see `hermes-lab models`.")
    ] = "pocket",
    policy: Annotated[
        str,
        typer.Option(
            help="A policy, with fields in brackets if wanted: `fifo(budget_tokens=512)`; see "
            "`hermes-lab policies`."
        ),
    ] = "hermes",
    budget: Annotated[
        int | None,
        typer.Option(
            help="Video tokens per layer. Default: what 32 frames of the stream take, at most 4096."
        ),
    ] = None,
    positions: Annotated[
        str | None, typer.Option(help="Position rule: keep, lazy, eager or contiguous.")
    ] = None,
    next_position: Annotated[
        str,
        typer.Option(
            help="counter never reuses a position; last_kept follows HERMES' released code."
        ),
    ] = "counter",
    chunk_frames: Annotated[int, typer.Option(help="Frames per feed step.")] = 16,
    fps: Annotated[float, typer.Option(help="Frames sampled per second of video.")] = 1.0,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help="A question; `...@12.5` (or `@1:05`, `@0:01:05`) asks when the stream reaches that second. Repeatable."
        ),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write a recording to this new folder.")
    ] = None,
    record_level: Annotated[
        str, typer.Option(help="summary, or rows to keep full attention rows of questions.")
    ] = "summary",
    overwrite: Annotated[bool, typer.Option(help="Replace an existing recording.")] = False,
    max_frames: Annotated[int | None, typer.Option(help="Stop after this many frames.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 48,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    device_map: Annotated[
        str | None, typer.Option(help="Passed to transformers, for models over several GPUs.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, no live view.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Answers only, no live view.")] = False,
) -> int:
    """Stream a video into a model under a retention policy, ask questions, write a recording.

    Examples:

        hermes-lab run

        hermes-lab run clip.mp4 --policy "hermes:released" --budget 512 --ask "What is happening?"

        hermes-lab run world:seed=7,frames=120 --policy fifo --ask "what was the first object?@30" --record runs/a
    """
    if record is not None:
        finish_unread()
    questions = [Question.parse(spec) for spec in ask or []]
    if source is None:
        from hermes_lab.worlds import bundled

        source = str(bundled.clip_path())
        known = bundled.demo_questions()
        questions = questions or [Question(q.text, q.time_s, q.answer) for q in known]
    options = RunOptions(
        source=source, model=model, policy=policy, budget=budget, positions=positions,
        next_position=next_position, chunk_frames=chunk_frames, fps=fps, record=record,
        record_level=record_level, overwrite=overwrite, max_frames=max_frames,
        max_new_tokens=max_new_tokens, dtype=dtype, device=device, device_map=device_map, seed=seed,
    )  # fmt: skip
    session, frames = prepare(options, questions)
    work = Run(options, session, frames, questions, show=not (as_json or quiet))
    _say_domain(work)
    with work.session:
        work.stream()
    problem = work.problem or work.source.damage
    if as_json:
        print_json(_report(work, problem))
    else:
        if quiet:
            for answer in work.answers:
                say(f"{answer.question}  {answer.text}")
        else:
            _what_next(record)
        for told in (*work.notes, *([problem] if problem else [])):
            note(told)
    return PARTIAL_INPUT if problem else 0


def _say_domain(work: Run) -> None:
    from hermes_lab import pocket

    lab = work.session.lab
    cautions = pocket.cautions(
        lab.name, work.source.kind, work.options.source, work.source.estimated_frames
    )
    for caution in (*lab.notes, *cautions):
        note(caution)


def _report(work: Run, problem: str | None) -> dict[str, Any]:
    snapshot = work.session.snapshot
    return {
        "model": work.session.lab.describe(),
        "policy": work.session.policy.config(),
        "positions": str(work.session.positions),
        "source": {"name": work.source.name, "kind": work.source.kind},
        "frames": 0 if snapshot is None else snapshot.frames_seen,
        "steps": work.snapshots,
        "cache_bytes": work.session.cache_bytes,
        "held_tokens": [] if snapshot is None else [int(ids.shape[1]) for ids in snapshot.held],
        "answers": [
            {"question": a.question, "text": a.text, "time_s": a.time_s, "ttft_s": a.ttft_s,
             "tpot_s": a.tpot_s, "top": a.top}
            for a in work.answers
        ],
        "recording": None if work.options.record is None else str(work.options.record),
        "notes": list(work.notes),
        "problem": problem,
    }  # fmt: skip


def _what_next(record: Path | None) -> None:
    if record is not None:
        say(f"\nRecording: {record}")
        show = f"hermes-lab show {shlex.quote(str(record))}"
        say(f"Next: {show}, or look at it in `hermes-lab dashboard`.")
    else:
        say(
            "\nNext: add --record runs/first to keep every decision, or try another --policy "
            "(`hermes-lab policies` lists them)."
        )


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(ends_when_told(run))
