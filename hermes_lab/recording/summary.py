"""A recording in a few numbers, and the recordings of a folder."""

from __future__ import annotations

import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hermes_lab import strict_json
from hermes_lab.brief import Brief, bytes_text, span_text
from hermes_lab.recording.retention import TokenState
from hermes_lab.tokens import Role

if TYPE_CHECKING:
    from hermes_lab.recording.reader import Recording


_INTERRUPTED = "its process ended without closing it"
_SHORT_CHARACTERS = 24  # longer policy fields (prompts) are left to the manifest


@dataclass(frozen=True)
class AnswerSummary:
    """One question and what it cost."""

    question: str
    text: str
    time_s: float
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, repr=False)
class RecordingSummary(Brief):
    """What `hermes-lab show` prints.

    Attributes:
        status: open, interrupted, finished or aborted; `reason` says why.
        stream_s: presentation time of the newest frame.
        kept_tokens, evicted_tokens, merged_tokens: video tokens in each layer at the end, [layer].
        budget_tokens: per layer at the end, None without limit.
        recording_bytes: on disk; cache_bytes, peak_cache_bytes: keys and values at the end and at most.
        median_timings_s: of a step, by part.
        notes: distinct sentences of the steps, and what could not be read.
    """

    folder: str
    status: str
    reason: str | None
    created: str
    model: str
    policy: dict[str, Any]
    positions: str
    source: str
    level: str
    layers: int
    frames: int
    steps: int
    stream_s: float
    video_tokens: int
    kept_tokens: tuple[int, ...]
    evicted_tokens: tuple[int, ...]
    merged_tokens: tuple[int, ...]
    budget_tokens: tuple[int, ...] | None
    recording_bytes: int
    cache_bytes: int
    peak_cache_bytes: int
    median_timings_s: dict[str, float]
    median_ttft_s: float | None
    answers: tuple[AnswerSummary, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """Strict JSON: numbers that are not finite become null."""
        return strict_json.dumps(asdict(self), indent=2)

    def to_text(self) -> str:
        """A few lines for a terminal."""
        fields = ", ".join(
            f"{name}={value}"
            for name, value in self.policy.items()
            if name != "policy" and value is not None and len(str(value)) <= _SHORT_CHARACTERS
        )
        state = self.status if self.reason is None else f"{self.status}: {self.reason}"
        lines = [
            f"Recording   {self.folder} ({state}, {self.created}, level {self.level}, "
            f"{bytes_text(self.recording_bytes)})",
            f"Model       {self.model}, {self.layers} layers",
            f"Policy      {self.policy.get('policy', '?')} ({fields}), positions {self.positions}",
            f"Source      {self.source}: {self.frames} frames in {self.steps} steps, "
            f"{self.stream_s:.1f} s, {self.video_tokens} video tokens",
            f"Cache       {bytes_text(self.cache_bytes)} at the end, "
            f"{bytes_text(self.peak_cache_bytes)} at most",
            f"Kept        {span_text(self.kept_tokens)} tokens per layer, budget "
            f"{'none' if self.budget_tokens is None else span_text(self.budget_tokens)}",
            f"Evicted     {span_text(self.evicted_tokens)} per layer, merged {span_text(self.merged_tokens)}",
        ]
        if self.steps:
            times = ", ".join(
                f"{name.removesuffix('_s')} {1000 * value:.1f} ms"
                for name, value in self.median_timings_s.items()
            )
            lines.append(f"Median step {times}")
        if self.median_ttft_s is not None:
            lines.append(f"Median TTFT {1000 * self.median_ttft_s:.1f} ms")
        for answer in self.answers:
            lines.append(f"At {answer.time_s:.1f} s  {answer.question}")
            lines.append(f"            {answer.text} (TTFT {1000 * answer.ttft_s:.1f} ms)")
        lines += [f"Note        {note}" for note in self.notes]
        return "\n".join(lines)


def summarise(recording: Recording) -> RecordingSummary:
    """Collect the numbers of `Recording.summary`."""
    manifest, line, status = recording.manifest, recording.timeline, recording.status
    records = [part.record for part in recording.step_parts]
    state = recording.retention().state()
    notes = dict.fromkeys(note for record in records for note in record["notes"])
    answers = tuple(
        AnswerSummary(a.question, a.text, a.time_s, a.ttft_s, a.tpot_s) for a in recording.answers
    )
    budgets = records[-1]["budget_tokens"] if records else None

    def count(*states: TokenState) -> tuple[int, ...]:
        return tuple(int(n) for n in np.isin(state, states).sum(1))

    return RecordingSummary(
        folder=str(recording.folder),
        status=status,
        reason=_INTERRUPTED if status == "interrupted" else manifest.reason,
        created=manifest.created,
        model=manifest.model.name,
        policy=dict(manifest.policy),
        positions=manifest.positions,
        source=manifest.source.name,
        level=manifest.level,
        layers=recording.layers,
        frames=sum(len(record["frames"]) for record in records),
        steps=len(records),
        stream_s=records[-1]["time_s"] if records else 0.0,
        video_tokens=int((recording.tokens.column("role") == Role.VISUAL).sum()),
        kept_tokens=count(TokenState.KEPT, TokenState.PROTECTED),
        evicted_tokens=count(TokenState.EVICTED),
        merged_tokens=count(TokenState.MERGED),
        budget_tokens=None if budgets is None else tuple(budgets),
        recording_bytes=folder_bytes(recording.folder),
        cache_bytes=int(line.cache_bytes[-1]) if records else 0,
        peak_cache_bytes=int(line.cache_bytes.max(initial=0)),
        median_timings_s={
            name: float(np.median(values)) for name, values in line.timings.items() if len(values)
        },
        median_ttft_s=float(np.median([a.ttft_s for a in answers])) if answers else None,
        answers=answers,
        notes=(*notes, *recording.notes, *recording.problems),
    )


def folder_bytes(folder: Path) -> int:
    """Bytes of all files of a recording."""
    return sum(map(_file_bytes, folder.rglob("*")))


def _file_bytes(path: Path) -> int:
    try:
        found = path.stat()
    except OSError:  # gone in the meantime, as temporary files are, or out of reach
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
