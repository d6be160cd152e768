"""`hermes-lab study` and `studies`: derive and test the memory-granularity findings, and what else can be asked."""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from hermes_lab.cli.console import out, print_json
from hermes_lab.cli.dashboard import workbench
from hermes_lab.cli.doctor import say_untested


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
) -> None:
    """Run one study, or all, with its nulls and controls; writes HTML, JSON and CSV. Resumable."""
    say_untested()
    result = _analysis("study").run(name, model=model, out=out_dir, quick=quick)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(str(result), markup=False)


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
        out.print(
            f"{info.name:<18}{info.question}{origin}", markup=False, highlight=False, soft_wrap=True
        )
    for problem in registry.problems():
        out.print(problem, style="yellow", markup=False, soft_wrap=True)


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
