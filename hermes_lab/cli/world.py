"""`hermes-lab world`: write a procedural stream with its questions."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hermes_lab.cli.console import print_json, say
from hermes_lab.errors import LabError


def world(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder for world.mp4 and world.json.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same stream.")] = 7,
    minutes: Annotated[float, typer.Option(help="Length, at one frame per second.")] = 2.0,
    camera: Annotated[str, typer.Option(help="still, pan or panzoom.")] = "still",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a procedural stream as an MP4 and a JSON of its events and questions.

    Example: `hermes-lab world --seed 7 --minutes 2 --out worlds/seven`, then
    `hermes-lab run worlds/seven/world.mp4`.
    """
    from hermes_lab.worlds import export

    if camera != "still" and camera != "pan" and camera != "panzoom":
        raise LabError(f"There is no camera {camera!r}; choose still, pan or panzoom.")
    exported = export(seed, minutes, out_dir, camera=camera)
    if as_json:
        print_json({"video": str(exported.video), "json": str(exported.questions)})
        return
    say(f"Wrote {exported.video} and {exported.questions}.")
    say(f"Next: hermes-lab run {shlex.quote(str(exported.video))}")


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(world)
