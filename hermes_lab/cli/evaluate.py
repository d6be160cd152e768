"""`hermes-lab eval`: accuracy by memory horizon, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hermes_lab.cli.console import bars_for_people, print_json, progress, say
from hermes_lab.cli.doctor import say_untested
from hermes_lab.cli.saving import Saved
from hermes_lab.errors import LabError


def evaluate(
    suite: Annotated[str, typer.Option(help="worlds: held-out procedural streams.")] = "worlds",
    model: Annotated[str, typer.Option(help="Which model.")] = "pocket",
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="A policy to stream under; repeatable. Default: the full cache, in batches."
        ),
    ] = None,
    streams: Annotated[int, typer.Option(help="Held-out streams.")] = 500,
    frames: Annotated[int | None, typer.Option(help="Length; default: the trained length.")] = None,
    save: Annotated[Path | None, typer.Option(help="Also write the result as JSON here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Measure exact match on questions with known answers, by type and horizon, beside the majority baseline."""
    if suite != "worlds":
        raise LabError(f"There is no suite {suite!r}; the suite that ships is 'worlds'.")
    from hermes_lab.evaluation.scores import Comparison
    from hermes_lab.evaluation.worlds import compare
    from hermes_lab.training.exam import examine

    saved = Saved(save)
    say_untested()
    bars_for_people()
    with progress() as bars:
        task = bars.add_task("streams")

        def advance(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        if policy:
            result = compare(model, policy, streams=streams, frames=frames, progress=advance)
        else:
            result = Comparison([examine(model, streams, frames, advance)])
    if as_json:
        print_json(result.to_json())
    else:
        say(result.table())
    saved.write(result.to_json())
    return saved.status()


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("eval")(evaluate)
