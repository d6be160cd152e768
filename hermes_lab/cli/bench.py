"""`hermes-lab bench`: time to first token, memory, compression and recording cost, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hermes_lab.cli.console import errors, print_json


def bench(
    model: Annotated[str, typer.Option(help="Which model.")] = "pocket",
    mid: Annotated[
        bool, typer.Option(help="Also a mid-size decoder with random weights (labelled as such).")
    ] = True,
    policies: Annotated[
        bool, typer.Option("--policies", help="Decision and query cost of every policy instead.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer repetitions and shorter streams.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Also write JSON here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure all sides in one run on this machine; medians and ratios, never absolute promises."""
    from hermes_lab.evaluation import benchmark

    report = (
        benchmark.policies(model, quick=quick)
        if policies
        else benchmark.engine(
            model, mid=mid, quick=quick, progress=lambda text: errors.print(f"[dim]{text}[/]")
        )
    )
    if save is not None:
        from hermes_lab.files import write_text

        write_text(save, json.dumps(report.to_json(), indent=1))
    if as_json:
        print_json(report.to_json())
    else:
        print(report.table())


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(bench)
