"""`hermes-lab show`: what is in a recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hermes_lab.cli.console import errors, mebibytes, out, print_json

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

    if not (folder / "manifest.json").exists() and folder.is_dir():
        entries = list_recordings(folder)
        if entries:
            _list(entries, as_json)
            return 0
    recording = Recording.open(folder)
    found = recording.verify() if verify else list(recording.problems)
    summary = recording.summary()
    if as_json:
        print(summary.to_json())
    else:
        out.print(summary.to_text(), markup=False, soft_wrap=True)
    for problem in found:
        errors.print(f"[yellow]Note:[/] {problem}", soft_wrap=True)
    return DAMAGED if found else 0


def _list(entries: list[RecordingEntry], as_json: bool) -> None:
    rows = [
        {"folder": str(e.folder), "steps": e.steps, "answers": e.answers, "bytes": e.size_bytes,
         "model": e.manifest.model.name if e.manifest else None,
         "policy": e.manifest.policy.get("policy") if e.manifest else None, "problem": e.problem}
        for e in entries
    ]  # fmt: skip
    if as_json:
        print_json(rows)
        return
    table = Table("recording", "model", "policy", "steps", "answers", "size", box=None)
    for row in rows:
        table.add_row(
            str(row["folder"]), str(row["model"] or row["problem"]), str(row["policy"] or "-"),
            str(row["steps"]), str(row["answers"]), mebibytes(float(str(row["bytes"]))),
        )  # fmt: skip
    out.print(table)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(show)
