"""`hermes-lab show`: what is in a recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hermes_lab.brief import bytes_text
from hermes_lab.cli.console import note, out, print_json, print_json_text, say
from hermes_lab.errors import RecordingError
from hermes_lab.files import is_folder, looked_up

if TYPE_CHECKING:
    from hermes_lab.recording.catalogue import RecordingEntry

DAMAGED = 3  # exit status when something of the recording could not be read


def show(
    folder: Annotated[Path, typer.Argument(help="A recording folder, or a folder of recordings.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[bool, typer.Option(help="Read every part and report damage.")] = False,
) -> int:
    """Summarise a recording: what was streamed, what each layer kept, what was asked."""
    from hermes_lab.recording import Recording, list_recordings
    from hermes_lab.recording.format import MANIFEST

    if is_folder(folder, RecordingError) and looked_up(folder / MANIFEST, RecordingError) is None:
        entries = list_recordings(folder)
        if entries:
            return _list(entries, as_json)
    recording = Recording.open(folder, salvage=True)
    found = recording.verify() if verify else list(recording.problems)
    summary = recording.summary()
    if as_json:
        print_json_text(summary.to_json())
    else:
        say(summary.to_text())
    for problem in found:
        note(problem)
    return DAMAGED if found else 0


def _list(entries: list[RecordingEntry], as_json: bool) -> int:
    """Every recording, also those that cannot be read, which are told of one by one."""
    rows = [
        {"folder": str(e.folder), "steps": e.steps, "answers": e.answers, "bytes": e.size_bytes,
         "model": e.manifest.model.name if e.manifest else None,
         "policy": e.manifest.policy.get("policy") if e.manifest else None, "problem": e.problem}
        for e in entries
    ]  # fmt: skip
    problems = [entry.problem for entry in entries if entry.problem is not None]
    if as_json:
        print_json(rows)
        return DAMAGED if problems else 0
    table = Table("recording", "model", "policy", "steps", "answers", "size", box=None)
    for row in rows:
        table.add_row(
            str(row["folder"]), str(row["model"] or "cannot be read"), str(row["policy"] or "-"),
            str(row["steps"]), str(row["answers"]), bytes_text(float(str(row["bytes"]))),
        )  # fmt: skip
    out.print(table)
    for problem in problems:
        note(problem)
    return DAMAGED if problems else 0


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(show)
