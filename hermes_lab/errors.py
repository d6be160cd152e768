"""Errors that a person can act on: each message is one sentence naming what was wrong and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_ALIKE = 0.66  # below this, names share letters by chance ("nope" and "composed": 0.5)
_AS_GOOD = 0.1  # what may lie between the nearest name and the others that are offered
_PART_LETTERS = 4  # shorter parts of a name are found in too many
_MOST_NEAR = 3
_MOST_LISTED = 60
_LONGEST_NAME = 200  # of what was written; comparing takes the square of it


class LabError(Exception):
    """Base of every error that the CLI prints as one sentence before it exits with a non-zero status."""


class VideoError(LabError):
    """A video source cannot be opened or read."""


class ModelError(LabError):
    """A model cannot be found, loaded or streamed into."""


class PolicyError(LabError):
    """A retention policy is unknown, misconfigured, or broke its contract."""


class RecordingError(LabError):
    """A recording cannot be written or read."""


class OutOfMemoryError(LabError, MemoryError):
    """Something did not fit into the memory of the machine or of a device; what was begun is undone."""


def nearest(name: object, known: Iterable[str], listed_by: str | None = None) -> str:
    """Say which known names are nearest to a misspelt one, as the tail of an error sentence.

    Args:
        listed_by: the command that lists the names, where they are too many for a sentence.
    """
    options = sorted(known)
    near = _near(str(name)[:_LONGEST_NAME], options)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    if listed_by is not None:
        return f"`{listed_by}` lists what there is."
    shown = ", ".join(options[:_MOST_LISTED])
    more = len(options) - _MOST_LISTED
    return f"known names are {shown}{f' and {more} more' if more > 0 else ''}."


def _near(name: str, options: Sequence[str]) -> list[str]:
    """The options that a person may have meant, the nearest first; case and punctuation do not count."""
    written = _letters(name)
    likeness = {o: difflib.SequenceMatcher(None, written, _letters(o)).ratio() for o in options}
    near = [option for option in options if _holds(_letters(option), name)]
    if not near:
        best = max(likeness.values(), default=0.0)
        near = [
            option
            for option, share in likeness.items()
            if share >= max(_ALIKE, best - _AS_GOOD) or _is_most_of(_letters(option), written)
        ]
    return sorted(near, key=lambda option: -likeness[option])[:_MOST_NEAR]


def _holds(option: str, name: str) -> bool:
    """Whether an option has all that was written in it, as one piece or word by word ("llava-7b")."""
    words = [_letters(word) for word in re.split(r"[\W_]+", name) if word]
    enough = len("".join(words)) >= _PART_LETTERS
    return enough and ("".join(words) in option or all(word in option for word in words))


def _is_most_of(option: str, written: str) -> bool:
    """Whether an option is at least half of what was written, in one piece ("fifo_512")."""
    return len(option) >= _PART_LETTERS and 2 * len(option) >= len(written) and option in written


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def reason_of(error: BaseException) -> str:
    """Why something was cut short, for people who read it later."""
    text = str(error)
    if isinstance(error, KeyboardInterrupt):
        return text or "interrupted by Ctrl-C"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
