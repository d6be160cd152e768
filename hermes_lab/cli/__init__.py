"""`hermes-lab`: every command, and one way to fail.

Commands enter, one file each: its arguments, what it prints and its exit status. What it does lies in the library, which
prints nothing. Commands import what they need when they run, so that `--help` and listings answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from hermes_lab import __version__
from hermes_lab.cli import (
    bench,
    console,
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
from hermes_lab.cli.sink import ReaderLeft
from hermes_lab.errors import LabError
from hermes_lab.memory import asked_for, is_out_of_memory

READER_LEFT = 141  # as a shell reports a program whose reader left: 128 + SIGPIPE
INTERRUPTED = 130  # likewise of Ctrl-C: 128 + SIGINT

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
        console.say(f"hermes-lab {__version__}")
        raise typer.Exit


@app.callback()
def _common(  # pyright: ignore[reportUnusedFunction]  (typer calls it)
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None: ...


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what a person can fix is told in one sentence and gives status 2.

    Set HERMES_LAB_DEBUG=1 to see tracebacks instead.
    """
    console.begin()
    try:
        return _heard(_answered(arguments))
    except ReaderLeft:
        return READER_LEFT


def _heard(code: int) -> int:
    """Send what is still buffered; the exit status, in view of what became of standard output."""
    try:
        console.end()
    except LabError as error:
        console.fail(str(error))
        return 2
    if console.out.sink.problem is not None:  # the command went on without it
        console.fail(console.out.sink.problem)
        return 2
    return READER_LEFT if code == 0 and console.out.sink.reader_left else code


def _answered(arguments: Sequence[str] | None) -> int:
    """Run a command and tell what ended it."""
    try:
        code = app(arguments, standalone_mode=False)
    except (LabError, OSError) as error:
        if os.environ.get("HERMES_LAB_DEBUG"):
            raise
        console.fail(_sentence(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer's way, where it printed help
            raise ReaderLeft from end
        raise
    except Exception as error:
        if is_out_of_memory(error) and not os.environ.get("HERMES_LAB_DEBUG"):
            console.fail(_no_room(error))
            return 2
        show_usage = getattr(error, "format_message", None)
        if show_usage is None:
            raise
        console.fail(show_usage())
        return int(getattr(error, "exit_code", 2))
    if code == INTERRUPTED:  # typer, too, makes this status of a Ctrl-C, and says nothing
        console.errors.print("Interrupted.")
    return code if isinstance(code, int) else 0


def _sentence(error: LabError | OSError) -> str:
    if isinstance(error, LabError):
        return str(error)
    reason = error.strerror or str(error) or type(error).__name__
    what = error.filename or "Something that was to be read or written"
    return f"{what} cannot be used: {reason}."


def _no_room(error: BaseException) -> str:
    return (
        f"The command did not fit into memory{asked_for(error)}: give it fewer or smaller frames, a smaller budget or a "
        "smaller model, or load the model with --dtype bfloat16."
    )


def entry() -> None:
    """Console script."""
    sys.exit(main())
