"""`hermes-lab`: every command, and one way to fail.

Commands import what they need when they run, so that `--help` and listings answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from hermes_lab import __version__
from hermes_lab.cli import (
    bench,
    dashboard,
    doctor,
    evaluate,
    listings,
    run,
    show,
    study,
    train,
    world,
)
from hermes_lab.cli.console import errors
from hermes_lab.errors import LabError

app = typer.Typer(
    name="hermes-lab",
    help="Watch what a streaming-video MLLM keeps and forgets in its KV cache, and ask why.\n\n"
    "Start with `hermes-lab run`: it streams the bundled clip into the default model. "
    "Then `hermes-lab dashboard`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

run.add_to(app)
show.add_to(app)
listings.add_to(app)
world.add_to(app)
evaluate.add_to(app)
bench.add_to(app)
study.add_to(app)
train.add_to(app)
dashboard.add_to(app)
doctor.add_to(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"hermes-lab {__version__}")
        raise typer.Exit


@app.callback()
def _common(  # pyright: ignore[reportUnusedFunction]  (typer calls it)
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what a person can mend is told in one sentence and gives status 2.

    Set HERMES_LAB_DEBUG=1 to see tracebacks instead.
    """
    try:
        code = app(arguments, standalone_mode=False)
    except LabError as error:
        if os.environ.get("HERMES_LAB_DEBUG"):
            raise
        errors.print(f"[bold red]Error:[/] {_plain(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        return 130
    except typer.Abort:
        return 130
    except Exception as error:
        show_usage = getattr(error, "format_message", None)
        if show_usage is None:
            raise
        errors.print(f"[bold red]Error:[/] {_plain(show_usage())}", soft_wrap=True)
        return int(getattr(error, "exit_code", 2))
    return code if isinstance(code, int) else 0


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def entry() -> None:
    """Console script."""
    sys.exit(main())
