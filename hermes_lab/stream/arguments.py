"""What a session may be given: each check refuses a wrong kind or value in one sentence, before anything is done."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import numpy as np

from hermes_lab import policies
from hermes_lab.errors import LabError, PolicyError, nearest
from hermes_lab.policies.base import Policy

NextPosition = Literal["counter", "last_kept"]
RecordLevel = Literal["off", "summary", "rows"]
NEXT_POSITIONS: tuple[NextPosition, ...] = ("counter", "last_kept")
RECORD_LEVELS: tuple[RecordLevel, ...] = ("off", "summary", "rows")
Word = TypeVar("Word", bound=str)


def check_session(
    *, chunk_frames: Any, record: Any, record_level: Any, record_rows: Any, seed: Any, system: Any,
    next_position: Any, source: Any, fps: Any, **switches: Any,
) -> None:  # fmt: skip
    """Refuse what a session cannot be started with; `switches` are True or False."""
    chunk_length(chunk_frames)
    whole_number("seed", seed)
    one_of("next position", next_position, NEXT_POSITIONS)
    one_of("record level", record_level, RECORD_LEVELS)
    flags(**switches)
    if record is not None:
        of_kind("record", record, str | Path, "the path of a folder")
    if record_rows is not None:
        _check_layers("record_rows", record_rows)
    if system is not None:
        of_kind("system", system, str, "a text")
        readable("The system prompt", system)
    if source is not None:
        of_kind("source", source, Mapping, "a mapping with name, kind and sha256")
    if fps is not None:
        positive("fps", fps)


def chunk_length(value: Any) -> int:
    """Frames in a chunk."""
    if whole_number("chunk_frames", value) < 1:
        raise LabError(f"A chunk needs at least one frame, got chunk_frames={value}.")
    return int(value)


def chosen_policy(policy: Any) -> Policy:
    """The policy that was named or given.

    Raises:
        PolicyError: neither a policy nor a text, or no known name.
    """
    if isinstance(policy, str):
        return policies.get(policy)
    if isinstance(policy, Policy):
        return policy
    if isinstance(policy, type) and issubclass(policy, Policy):
        raise PolicyError(
            f"{policy.__name__} is the class of a policy; make one of it: {policy.__name__}(budget_tokens=512)."
        )
    raise PolicyError(
        f"A policy is a text such as 'hermes(budget_tokens=512)' or a Policy, got {told(policy)}."
    )


def one_of(name: str, value: Any, known: Sequence[Word]) -> Word:
    """The known word that was given."""
    for word in known:
        if isinstance(value, str) and value == word:
            return word
    raise LabError(f"There is no {name} {told(value)}; {nearest(value, known)}")


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, of any integer type, that is not too small."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        limit = "" if least is None else f" of at least {least}"
        raise LabError(f"{name} must be a whole number{limit}, got {told(value)}.")
    return number


def positive(name: str, value: Any) -> None:
    """Refuse what is not a positive, finite number."""
    good = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if not good or not math.isfinite(float(value)) or float(value) <= 0:
        raise LabError(f"{name} must be a positive number, got {told(value)}.")


def flags(**named: Any) -> None:
    """Refuse what is neither True nor False: "no" would count as True."""
    for name, value in named.items():
        of_kind(name, value, bool | np.bool_, "True or False")


def of_kind(name: str, value: Any, kind: Any, what: str) -> None:
    """Refuse a value that is not of a kind; `what` names the kind in words."""
    if not isinstance(value, kind):
        raise LabError(f"{name} must be {what}, got {told(value)}.")


def question_text(question: Any) -> str:
    """The question, if it is a text that a tokenizer can take."""
    if not isinstance(question, str):
        raise LabError(f"A question must be a text, got {told(question)}.")
    if not question.strip():
        raise LabError("The question is empty; ask something.")
    readable("The question", question)
    return question


def readable(name: str, text: str) -> None:
    """Refuse half characters, which come of bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LabError(
            f"{name} holds something that is no character, at place {error.start + 1}; write it in UTF-8."
        ) from error


def _check_layers(name: str, value: Any) -> None:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise LabError(f"{name} must be a list of layers, such as [0, 5], got {told(value)}.")
    for layer in cast("Iterable[Any]", value):
        whole_number(f"A layer in {name}", layer)


def told(value: Any) -> str:
    """A value in a sentence: itself where it is short, else what it is."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        shown = repr(value)
        return shown if len(shown) <= 80 else f"{shown[:77]}..."
    kind = cast("type[Any]", value if isinstance(value, type) else type(value)).__name__
    return f"the class {kind}" if isinstance(value, type) else f"an object of type {kind}"
