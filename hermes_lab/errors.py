"""Errors that a person can act on: each message is one sentence naming what was wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are nearest to a misspelt one, as the tail of an error sentence."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(n) for n in close) + "?"
    return "known names are " + ", ".join(options) + "."
