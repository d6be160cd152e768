"""`hermes-lab doctor`: what is here, what is missing, and the command that fixes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from hermes_lab.cli.console import note, out, print_json, say

if TYPE_CHECKING:
    from hermes_lab.environment import Check, Examination

UNFIT = 1  # exit status when something needed is missing or wrong
_COLOURS = {"ok": "green", "untested": "yellow", "absent": "dim"}
_WORDS = {"absent": "not here"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")] = False,
) -> int:
    """Look at versions, devices, codecs, shipped models and optional packages; say how to fix what is missing.

    Exit status 0: everything that is needed is here. 1: something needed is missing, broken, or of a version that is
    not allowed. Versions that are allowed but not tested, and optional packages that are missing, are shown and do not
    change the status.
    """
    from hermes_lab.environment import examine

    found = examine()
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    return UNFIT if found.failed else 0


def _show(found: Examination) -> None:
    grid = Table(box=None, show_header=False, pad_edge=False)
    for section, checks in found.sections.items():
        grid.add_row(Text(section.capitalize(), "bold"))
        for check in checks:
            word = Text(_WORDS.get(check.state, check.state), _COLOURS.get(check.state, "bold red"))
            grid.add_row(
                Text.assemble("  ", word), Text(check.name), Text(check.found or "-"), Text(check.wanted, "dim")
            )  # fmt: skip
    say(Text(f"HERMES Lab {found.version}", "bold"))
    out.print(grid)
    everything = [check for checks in found.sections.values() for check in checks]
    _fixes("To fix:", found.failed)
    _fixes("Optional:", [c for c in everything if c.fix is not None and not c.failed])
    names = ", ".join(check.name for check in found.failed)
    verdict = (
        f"Needed, but missing or wrong: {names}." if names else "Everything that is needed is here."
    )
    say(Text(f"\n{verdict}", "bold red" if names else "bold green"))


def _fixes(title: str, checks: list[Check]) -> None:
    """Commands on lines of their own, so that they can be copied."""
    if checks:
        say(Text(f"\n{title}", "bold"))
    for check in checks:
        say(Text.assemble("  ", (check.name, "bold"), f" ({check.state}): ", check.fix or ""))


def say_untested() -> None:
    """One line on standard error where the installed versions are none of those that were tested."""
    from hermes_lab.environment import untested

    said = untested()
    if said is not None:
        note(said)


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(doctor)
