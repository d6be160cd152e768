"""What `hermes-lab run` was asked for, checked, and made into a session and a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from hermes_lab.cli.console import bars_for_people, errors
from hermes_lab.cli.questions import Question
from hermes_lab.errors import LabError

if TYPE_CHECKING:
    from hermes_lab.policies.base import Policy
    from hermes_lab.stream.arguments import NextPosition, RecordLevel
    from hermes_lab.stream.session import StreamSession
    from hermes_lab.video import FrameSource

MOST_PIXELS = 8192 * 6144  # of one picture: 8K video and 48-megapixel photographs fit
LONGEST_SIDE_PX = 4096  # larger pictures are scaled down, so that a chunk of them fits into memory


@dataclass(frozen=True)
class RunOptions:
    """What was asked for on the command line; `run` describes each field."""

    source: str
    model: str
    policy: str
    budget: int | None
    positions: str | None
    next_position: str
    chunk_frames: int
    fps: float
    record: Path | None
    record_level: str
    overwrite: bool
    max_frames: int | None
    max_new_tokens: int
    dtype: str
    device: str | None
    device_map: str | None
    seed: int


def prepare(options: RunOptions, questions: list[Question]) -> tuple[StreamSession, FrameSource]:
    """Check everything that can be checked before the model is loaded, then load it."""
    from hermes_lab import video

    policy = _check(options, questions)
    frames = video.open(
        options.source, fps=options.fps, max_frames=options.max_frames, max_side_px=LONGEST_SIDE_PX,
        limits=video.Limits(max_pixels=MOST_PIXELS),
    )  # fmt: skip
    from hermes_lab.lab import load
    from hermes_lab.stream.session import StreamSession

    bars_for_people()
    with errors.status(Text(f"loading {options.model}")):
        lab = load(
            options.model, dtype=options.dtype, device=options.device, device_map=options.device_map
        )
    session = StreamSession(
        lab, policy, positions=options.positions, chunk_frames=options.chunk_frames,
        record=options.record, record_level=_record_level(options),
        next_position=_next_position(options), overwrite=options.overwrite, seed=options.seed, fps=options.fps,
        source={"name": frames.name, "kind": frames.kind, "sha256": frames.sha256()},
    )  # fmt: skip
    return session, frames


def _check(options: RunOptions, questions: list[Question]) -> Policy:
    """Refuse what needs no model to be refused; the policy that was asked for."""
    from hermes_lab import policies
    from hermes_lab.retention.positions import PositionRule
    from hermes_lab.stream import arguments

    budget = options.budget
    if budget is not None and budget <= 0:
        raise LabError(f"The budget must be a positive number of tokens per layer, got {budget}.")
    if options.max_new_tokens < 1:
        raise LabError(
            f"An answer needs at least one token, got --max-new-tokens {options.max_new_tokens}."
        )
    for question in questions:
        arguments.question_text(question.text)
    arguments.chunk_length(options.chunk_frames)
    _next_position(options)
    _record_level(options)
    if options.positions is not None:
        PositionRule.parse(options.positions)
    fields = {} if budget is None else {"budget_tokens": budget}
    return policies.get(options.policy, **fields)


def _next_position(options: RunOptions) -> NextPosition:
    from hermes_lab.stream import arguments

    return arguments.one_of("next position", options.next_position, arguments.NEXT_POSITIONS)


def _record_level(options: RunOptions) -> RecordLevel:
    from hermes_lab.stream import arguments

    return arguments.one_of("record level", options.record_level, arguments.RECORD_LEVELS[1:])
