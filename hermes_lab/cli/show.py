"""`hermes-lab show`: what is in a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hermes_lab.cli.console import out, print_json


def show(
    folder: Annotated[Path, typer.Argument(help="A recording folder, or a folder of recordings.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[bool, typer.Option(help="Read every part and report damage.")] = False,
) -> None:
    """Summarise a recording: what was streamed, what each layer kept, what was asked."""
    from hermes_lab.recording import Recording, list_recordings

    if not (folder / "manifest.json").exists() and folder.is_dir():
        entries = list_recordings(folder)
        if entries:
            if as_json:
                print_json([entry.to_json() for entry in entries])
            else:
                for entry in entries:
                    out.print(str(entry))
            return
    recording = Recording.open(folder)
    if verify:
        recording.verify()
    summary = recording.summary()
    if as_json:
        print_json(summary.to_json())
    else:
        out.print(str(summary), markup=False)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(show)
