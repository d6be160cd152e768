"""The one way out for text: results to standard output, everything else to standard error.

Names, paths, questions and answers come from outside. Nothing in them is read as markup or as an emoji code, control
characters are shown instead of sent, what the stream's encoding lacks is replaced, and a stream that cannot be written
ends the command in one sentence, or quietly where the reader left.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable
from typing import IO, Any, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from hermes_lab import strict_json
from hermes_lab.cli.sink import Sink

_CONTROLS = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"},
    0x7F: "\u2421",
    **dict.fromkeys((*range(0x80, 0xA0), *range(0xD800, 0xE000)), "\ufffd"),
}
"""C0 controls become their pictures (ESC: ␛); C1 controls, which have none, and bytes of names that are no characters
become replacement characters."""
_IN_JSON = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def shown(text: str) -> str:
    """A text whose control characters, newline and tab apart, are seen and do nothing; its length stays as it was."""
    return text.translate(_CONTROLS)


class Outlet(Console):
    """A console on which text from outside is only ever text."""

    def __init__(self, sink: Sink, *, stderr: bool = False) -> None:
        self.sink = sink
        super().__init__(
            file=cast("IO[str]", sink), stderr=stderr, markup=False, emoji=False, highlight=False
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """As `Console.render_str`, of the text as it is shown."""
        return super().render_str(shown(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """As `Console.render`, with the controls of the text made visible and those of the console kept."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=shown(segment.text))

    def print(self, *objects: Any, **options: Any) -> None:
        """As `Console.print`; raises as `Sink.check` does."""
        super().print(*objects, **options)
        self.sink.check()


out = Outlet(Sink("stdout"))
errors = Outlet(Sink("stderr"), stderr=True)


def begin() -> None:
    """Make both streams replace what their encoding lacks; forget what befell them in an earlier command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    out.sink.reset()
    errors.sink.reset()


def end() -> None:
    """Send what is still buffered; raises as printing does."""
    errors.sink.flush()
    out.sink.flush()
    out.sink.check()


def finish_unread() -> None:
    """From now on the command goes on if standard output fails or its reader leaves, since it also writes files."""
    out.sink.goes_on = True


# --- what commands say ------------------------------------------------------------------------
def say(*what: RenderableType) -> None:
    """A line of the result, however long, in one piece."""
    out.print(*what, soft_wrap=True)


def note(sentence: str) -> None:
    """Something to know, beside the result."""
    errors.print(Text.assemble(("Note: ", "yellow"), sentence), soft_wrap=True)


def fail(sentence: str) -> None:
    """What ended the command."""
    errors.print(Text.assemble(("Error: ", "bold red"), sentence), soft_wrap=True)


def progress() -> Progress:
    """Bars on a terminal's standard error, whose descriptions are plain text."""
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(),
        TimeRemainingColumn(), console=errors, transient=True, disable=not errors.is_terminal,
    )  # fmt: skip


def bars_for_people() -> None:
    """Bars of the libraries that load models are for people; logs and pipes get sentences."""
    if not errors.is_terminal:
        from transformers.utils import logging

        logging.disable_progress_bar()


def print_json(value: Any) -> None:
    """Machine-readable output, unwrapped and uncoloured; numbers that are not finite are written as null."""
    print_json_text(strict_json.dumps(value, ensure_ascii=False))


def print_json_text(text: str) -> None:
    """A JSON document as it is, escaped where the stream's encoding or a terminal could not take it."""
    try:
        text.encode(out.encoding)
    except (UnicodeEncodeError, LookupError):
        text = json.dumps(json.loads(text))
    out.sink.write(text.translate(_IN_JSON) + "\n")
    out.sink.flush()
    out.sink.check()


def milliseconds(seconds: float) -> str:
    """A short time as a person reads it."""
    return "-" if seconds != seconds else f"{seconds * 1e3:.1f} ms"
