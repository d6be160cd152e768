"""A standard stream that may fail: full, closed, or left by its reader."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, Literal

from hermes_lab.errors import LabError


class ReaderLeft(Exception):
    """Whoever read standard output closed it (`hermes-lab ... | head`): nothing went wrong, and nobody listens."""


class Sink:
    """Whatever standard output or standard error is at the moment, with one way to fail.

    Once a stream has failed, what is written to it is thrown away.

    Attributes:
        goes_on: whether the command goes on without this stream, because it also writes files.
        reader_left: the reader of standard output closed it.
        problem: why else it could not be written, as a sentence.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        self.name = name
        self.reset()

    def reset(self) -> None:
        """As if nothing had happened."""
        self.goes_on = self.name == "stderr"
        self.reader_left = False
        self.problem: str | None = None
        self._failed = False

    @property
    def stream(self) -> Any:
        """The stream itself, also while rich stands in for it; None where the process was started without it."""
        stream = getattr(sys, self.name)
        return getattr(stream, "rich_proxied_file", stream)

    @property
    def encoding(self) -> str:
        """The stream's encoding."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether a person sees it."""
        with suppress(ValueError):
            return self.stream is not None and self.stream.isatty()
        return False

    def fileno(self) -> int:
        """Number of the stream's file."""
        return self.stream.fileno()

    def write(self, text: str) -> int:
        """Write, or throw away; never raises, since rich would keep what it could not write."""
        self._do("write", text)
        return len(text)

    def flush(self) -> None:
        """Send what is buffered."""
        self._do("flush")

    def check(self) -> None:
        """Say once that the stream failed, where the command does not go on without it.

        Raises:
            LabError: it cannot be written.
            ReaderLeft: its reader closed it.
        """
        if self.goes_on:
            return
        if self.reader_left:
            raise ReaderLeft
        if self.problem is not None:
            problem, self.problem = self.problem, None
            raise LabError(problem)

    def _do(self, method: str, *arguments: str) -> None:
        if self._failed or self.stream is None:
            return
        try:
            getattr(self.stream, method)(*arguments)
        except (
            UnicodeEncodeError
        ):  # a stream of another kind than Python's own, which is told to replace
            self._do(method, *(self._encodable(text) for text in arguments))
        except BrokenPipeError:
            self._give_up()
            self.reader_left = True
        except (OSError, ValueError) as error:  # ValueError: it was closed
            self._give_up()
            reason = getattr(error, "strerror", None) or error
            self.problem = f"Standard output cannot be written: {reason}."

    def _encodable(self, text: str) -> str:
        return text.encode(self.encoding, "replace").decode(self.encoding)

    def _give_up(self) -> None:
        """Let what is buffered go nowhere: Python would try again when it ends, and complain."""
        self._failed = True
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
