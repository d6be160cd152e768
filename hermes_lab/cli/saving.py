"""A file beside what a command prints: tried before the work, written after the result was printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hermes_lab import strict_json
from hermes_lab.cli.console import finish_unread, note
from hermes_lab.errors import LabError
from hermes_lab.files import try_file, write_text

NOT_SAVED = 3  # exit status when the result was printed but could not be saved


class Saved:
    """Where `--save` puts a result; None where it was not asked for."""

    def __init__(self, path: Path | None) -> None:
        """Try the file, so that nothing is measured in vain.

        Raises:
            LabError: it cannot be written.
        """
        self.path = path
        self.problem: str | None = None
        if path is not None:
            try_file(path)
            finish_unread()

    def write(self, value: Any) -> None:
        """Write JSON; a failure is kept for `status`, since the result was printed and more of it may come."""
        if self.path is not None:
            try:
                write_text(self.path, strict_json.dumps(value, indent=1) + "\n")
            except LabError as error:
                self.problem = str(error)
            else:
                self.problem = None

    def status(self) -> int:
        """Say what could not be saved; the exit status of the command."""
        if self.problem is not None:
            note(f"{self.problem} The result was printed but not saved.")
        return 0 if self.problem is None else NOT_SAVED
