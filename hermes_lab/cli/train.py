"""`hermes-lab train-pocket`: train the default model again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hermes_lab.cli.console import out


def train_pocket(
    config: Annotated[
        str, typer.Option(help="Which configuration: pocket, pocket-mrope, ...")
    ] = "pocket",
    out_dir: Annotated[
        Path, typer.Option("--out", help="Folder for checkpoints and weights.")
    ] = Path("runs/pocket"),
    seed: Annotated[int, typer.Option(help="Seed of initialisation and data.")] = 0,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Two minutes that prove that the pipeline learns.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = True,
) -> None:
    """Train the default model from scratch on procedural streams; resumable after a kill.

    Uses a GPU when there is one, several processes on CPU otherwise.
    """
    from hermes_lab.pocket.train import train

    report = train(config, out_dir, seed=seed, smoke=smoke, resume=resume)
    out.print(str(report), markup=False)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("train-pocket")(train_pocket)
