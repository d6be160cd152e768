"""`hermes-lab train-pocket`: train a default model again."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Annotated

import typer

from hermes_lab.cli.console import finish_unread, say
from hermes_lab.errors import LabError
from hermes_lab.files import try_folder


def train_pocket(
    name: Annotated[
        str,
        typer.Argument(
            help="pocket, pocket-s1, pocket-s2 (other seeds), pocket-mrope; pocket-u0 to pocket-u4 (right answers "
            "only), pocket-n3, pocket-n7 or pocket-n10 (and a nudge to look in the layer named and the next)."
        ),
    ] = "pocket",
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for checkpoints and weights. Default: runs/NAME."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of initialisation and data. Default: that of NAME.")
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Start from the decoder of this trained pocket model (a name or a folder): less to learn, but "
            "what is found on both is then not independent.",
        ),
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Processes on CPU. Default: one per core.")
    ] = None,
    smoke: Annotated[
        bool,
        typer.Option("--smoke", help="A run of two minutes that shows that the training works."),
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = True,
) -> None:
    """Train a default model on procedural streams; resumable after a kill.

    Uses a GPU when there is one, several processes on CPU otherwise. The tower learns to see first, then
    the decoder learns to answer over growing streams. Progress goes to standard error and, one JSON object
    per line, to progress.jsonl in the folder; the finished model is in its folder model, and loads by that path.

    Examples:

        hermes-lab train-pocket --smoke --out runs/smoke

        hermes-lab train-pocket --out runs/pocket        (again after a kill: it goes on)

        hermes-lab train-pocket pocket-mrope --init-from pocket

        hermes-lab train-pocket pocket-u0 --processes 1  (answers only: no target or nudge inside the decoder)

        hermes-lab eval --model runs/pocket/model --streams 20
    """
    from hermes_lab.cli.training import TrainingView
    from hermes_lab.training.train import planned, train

    plan = planned(name, seed=seed, smoke=smoke, init_from=init_from)
    folder = out_dir or Path("runs") / name
    try_folder(folder)
    finish_unread()
    with TrainingView(plan.recipe) as view:
        try:
            report = train(plan, folder, resume=resume, processes=processes, progress=view)
        except Exception as error:
            refused = _refused_by_system(error)
            if refused is None:
                raise
            raise LabError(
                f"Training into {folder} stopped ({refused}); what was saved stays, so run the command again to go on."
            ) from error
    say(str(report))


def _refused_by_system(error: Exception) -> str | None:
    """The last line of an error of the disk, which comes out of a training process as text; else None."""
    last = str(error).strip().splitlines()[-1:] or [""]
    kind = getattr(builtins, last[0].partition(":")[0], None)
    is_disk = isinstance(error, OSError) or (isinstance(kind, type) and issubclass(kind, OSError))
    return last[0] if is_disk or "SafetensorError" in last[0] else None


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("train-pocket")(train_pocket)
