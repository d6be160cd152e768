"""`hermes-lab bench`: time to first token, memory, compression and recording cost, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, TaskID

from hermes_lab.cli.console import errors, out, print_json
from hermes_lab.cli.doctor import say_untested
from hermes_lab.files import write_text

if TYPE_CHECKING:
    from hermes_lab.evaluation.report import Report


def bench(
    model: Annotated[str, typer.Option(help="Which model.")] = "pocket",
    mid: Annotated[
        bool, typer.Option(help="Also a mid-size decoder with random weights (labelled as such).")
    ] = True,
    policies: Annotated[
        bool, typer.Option("--policies", help="Decision and query cost of every policy instead.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer repetitions, shorter streams and chunks.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Also write JSON here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure all sides in one run on this machine; medians and ratios, never absolute promises."""
    from hermes_lab.evaluation import benchmark

    def show(report: Report) -> None:
        if save is not None:  # whole after every table, so that a run that is cut short leaves them
            write_text(save, json.dumps(report.to_json(), indent=1) + "\n")
        if not as_json:
            if len(report.sections) == 1:
                out.print(report.heading(), soft_wrap=True)
            out.print(report.sections[-1].table(), markup=False, soft_wrap=True)

    say_untested()
    with Progress(console=errors, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def tick(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = bar.add_task(title, total=total)
            bar.update(tasks[title], completed=done, visible=done < total)

        report = (
            benchmark.policies(model, quick=quick, tick=tick, on_table=show)
            if policies
            else benchmark.engine(model, mid=mid, quick=quick, tick=tick, on_table=show)
        )
    if as_json:
        print_json(report.to_json())


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(bench)
