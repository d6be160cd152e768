"""`hermes-lab bench`: time to first token, memory, compression and recording cost, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TaskID

from hermes_lab.cli.console import bars_for_people, print_json, progress, say
from hermes_lab.cli.doctor import say_untested
from hermes_lab.cli.saving import Saved

if TYPE_CHECKING:
    from hermes_lab.evaluation.report import Report


def bench(
    model: Annotated[str, typer.Option(help="Which model.")] = "pocket",
    mid: Annotated[
        bool, typer.Option(help="Also a mid-size decoder with random weights (and labelled so).")
    ] = True,
    policies: Annotated[
        bool, typer.Option("--policies", help="Decision and query cost of every policy instead.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer repetitions, shorter streams and chunks.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="Also write JSON here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Measure all sides in one run on this machine; medians and ratios, never absolute promises."""
    from hermes_lab.evaluation import benchmark

    saved = Saved(save)

    def show(report: Report) -> None:
        if not as_json:
            if len(report.sections) == 1:
                say(report.heading())
            say(report.sections[-1].table())
        saved.write(
            report.to_json()
        )  # after every table, so that a run that is cut short leaves them

    say_untested()
    bars_for_people()
    with progress() as bar:
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
    return saved.status()


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(bench)
