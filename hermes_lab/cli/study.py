"""`hermes-lab study`: derive and test the memory-granularity findings."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from hermes_lab.cli.console import out, print_json
from hermes_lab.cli.dashboard import workbench


def study(
    name: Annotated[
        str,
        typer.Argument(
            help="recency, anchors, bands, knockout, contribution, guidance, consequence, "
            "information_flow, or all."
        ),
    ],
    model: Annotated[str, typer.Option(help="Any model that loads.")] = "pocket",
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path(
        "reports/latest"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer streams; wider intervals.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run one study, or all, with its nulls and controls; writes HTML, JSON and CSV. Resumable."""
    base = str(workbench("analysis"))
    if base not in sys.path:
        sys.path.insert(0, base)
    runner = importlib.import_module("analysis.study")
    result = runner.run(name, model=model, out=out_dir, quick=quick)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(str(result), markup=False)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(study)
