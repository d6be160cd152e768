"""Questions of `hermes-lab run`: when each is asked, read from its text, and where a chunk is cut for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hermes_lab.errors import LabError

if TYPE_CHECKING:
    from hermes_lab.video import Chunk

_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:s|sec|secs|second|seconds)?", re.I)
_CLOCK = re.compile(r"(?:([0-9]+):)?([0-9]+):([0-9]{1,2}(?:\.[0-9]*)?)")
_LIKE_A_TIME = re.compile(
    r"\W*(?:t\W+)?(?:\d|$)"
)  # what follows an @ and is meant as a time: -3, 5,0, t=5
_END = "end"


@dataclass(frozen=True)
class Question:
    """A question, the second of the stream at which it is asked (None: at the end), and the right answer if known."""

    text: str
    at_s: float | None = None
    truth: str | None = None

    @classmethod
    def parse(cls, spec: str) -> Question:
        """Read `text`, `text@12.5`, `text@1:05`, `text@0:01:05` or `text@end`; an @ before words is part of the text.

        Raises:
            LabError: what follows the @ looks like a time and is none, or there is no text.
        """
        text, at, after = spec.strip().rpartition("@")
        if not at:
            text, at_s = after, None
        elif after.strip().casefold() == _END:
            at_s = None
        elif _LIKE_A_TIME.match(after):
            at_s = _seconds(after.strip(), spec)
            _refuse_second_time(text, spec)
        else:
            text, at_s = spec, None
        if not text.strip():
            raise LabError("A question given with --ask is empty; ask something.")
        return cls(text.strip(), at_s)


def _seconds(written: str, spec: str) -> float:
    """The second of the stream that is written behind the @."""
    plain = _SECONDS.fullmatch(written)
    if plain is not None:
        return float(plain[1])
    clock = _CLOCK.fullmatch(written)
    if clock is not None:
        hours, minutes, seconds = int(clock[1] or 0), int(clock[2]), float(clock[3])
        if seconds < 60 and (clock[1] is None or minutes < 60):
            return 3600.0 * hours + 60.0 * minutes + seconds
    raise LabError(
        f"The time {written!r} in --ask {spec!r} is not understood; write seconds (...@12.5), minutes (...@1:05) or "
        "hours (...@0:01:05), or put @end behind a text that has an @ of its own."
    )


def _refuse_second_time(text: str, spec: str) -> None:
    _, at, after = text.rpartition("@")
    if at and _LIKE_A_TIME.match(after):
        raise LabError(
            f"--ask {spec!r} names two times; ask the question twice, once for each of them."
        )


def split_at(chunk: Chunk, waiting: list[Question]) -> list[tuple[Chunk, list[Question]]]:
    """Cut a chunk where questions fall due, so that each sees exactly the frames up to its second."""
    parts: list[tuple[Chunk, list[Question]]] = []
    start = 0
    kind = type(chunk)
    for question in list(waiting):
        at = question.at_s
        if at is None or at >= chunk[-1].time_s:
            continue
        end = sum(frame.time_s <= at for frame in chunk)
        parts.append((kind(chunk[start:end]), [question]))
        start = max(start, end)
    due = [q for q in waiting if q.at_s is not None and q.at_s == chunk[-1].time_s]
    parts.append((kind(chunk[start:]), due))
    return parts


def asked_late(waiting: list[Question], end_s: float, every_s: float) -> list[str]:
    """A sentence for each question whose second the stream did not reach; one frame's time less is no matter."""
    return [
        f"The stream ended at {end_s:g} s, so {question.text!r} was asked there and not at {question.at_s:g} s."
        for question in waiting
        if question.at_s is not None and question.at_s > end_s + every_s
    ]
