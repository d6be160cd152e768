"""`hermes-lab study` and `studies`: derive and test the memory-granularity findings, and what else can be asked."""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TaskID
from rich.text import Text

from hermes_lab.cli.console import bars_for_people, finish_unread, note, print_json, progress, say
from hermes_lab.cli.dashboard import workbench
from hermes_lab.cli.doctor import say_untested
from hermes_lab.cli.saving import NOT_SAVED
from hermes_lab.errors import LabError


def study(
    name: Annotated[
        str, typer.Argument(help="A name from `hermes-lab studies`, or all: those that ship.")
    ],
    model: Annotated[str, typer.Option(help="Any model that loads.")] = "pocket",
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path(
        "reports/latest"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer streams; wider intervals.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Run one study, or all, with its nulls and controls; writes HTML, JSON and CSV. Resumable."""
    runner = _analysis("study")
    finish_unread()
    say_untested()
    bars_for_people()

    printed = False

    def found(result: Any) -> None:
        nonlocal printed
        printed = True
        if as_json:
            print_json(result.to_json())
        else:
            say(result.findings())

    with progress() as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        try:
            result = runner.run(
                name, model=model, out=out_dir, quick=quick, progress=tell, found=found
            )
        except LabError as error:
            if not printed:
                raise
            note(f"{error} The findings were printed, but the report is not complete.")
            return NOT_SAVED
    if not as_json:
        say(f"\nReport: {result.folder / 'report.html'}")
    return 0


def studies(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the studies that can be run, those of installed packages too, and what each asks."""
    registry = _analysis("registry")
    infos = registry.listing()
    if as_json:
        print_json([asdict(info) for info in infos])
        return
    for info in infos:
        origin = "" if info.origin == "built-in" else f" ({info.origin})"
        say(f"{info.name:<18}{info.question}{origin}")
    for problem in registry.problems():
        say(Text(problem, "yellow"))


def _analysis(module: str) -> Any:
    """A module of `analysis`, wherever that folder is."""
    base = str(workbench("analysis"))
    if base not in sys.path:
        sys.path.insert(0, base)
    return importlib.import_module(f"analysis.{module}")


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(study)
    app.command()(studies)
