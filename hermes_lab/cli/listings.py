"""`hermes-lab models` and `hermes-lab policies`: what can be named."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from hermes_lab.cli.console import out, print_json, say

if TYPE_CHECKING:
    from hermes_lab.policies.registry import PolicyInfo

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def models(as_json: Json = False) -> None:
    """List the models that are shipped and the families that load from a folder or a hub."""
    from hermes_lab import pocket
    from hermes_lab.models import families, problems

    shipped = [{"name": name, "note": pocket.describe(name)} for name in pocket.names()]
    known = [asdict(family) for family in families()]
    if as_json:
        print_json({"shipped": shipped, "families": known})
        return
    say(_bold("Shipped with HERMES Lab", " (offline, no weights to fetch)"))
    for model in shipped:
        say(f"  {model['name']:<16} {model['note']}")
    say(_bold("\nFamilies", " (`--model` takes a hub id or a local folder)"))
    for family in families():
        origin = "" if family.origin == "built-in" else f" ({family.origin})"
        say(Text.assemble("  ", _bold(family.name, f"  {family.note}{origin}")))
        if family.examples:
            say(f"    e.g. {', '.join(family.examples)}")
    for problem in problems():
        say(Text(problem, "yellow"))


def _bold(name: str, rest: str) -> Text:
    return Text.assemble((name, "bold"), rest)


def policies(
    name: Annotated[
        str | None,
        typer.Argument(help="Show one policy and its fields; options in brackets count."),
    ] = None,
    as_json: Json = False,
    table: Annotated[
        bool, typer.Option("--table", help="Compare mechanisms, needs, sources and licences.")
    ] = False,
) -> None:
    """List retention policies with their fields and sources."""
    from hermes_lab import policies as registry

    if table:
        from hermes_lab.cli.policy_table import policy_table

        say(policy_table())
        return
    infos = [registry.info(n) for n in (registry.names() if name is None else [name])]
    if as_json:
        print_json([_described(info) for info in infos])
        return
    for info in infos:
        presets = f"  (presets: {', '.join(info.presets)})" if info.presets else ""
        say(_bold(info.name, f"  {info.title}{presets}"))
        say(Text(f"    source: {info.source}", "dim"))
        if name is None:
            fields = ", ".join(f"{f.name}={f.default!r}" for f in info.fields)
            say(f"    {fields}")
    if name is not None:
        grid = Table("field", "default", "what it does", box=None, pad_edge=False)
        for f in infos[0].fields:
            grid.add_row(f.name, repr(f.default), f.doc)
        out.print(grid)
    for problem in registry.problems():
        say(Text(problem, "yellow"))


def _described(info: PolicyInfo) -> dict[str, Any]:
    keys = ("name", "title", "source", "licence", "presets", "per_head", "origin", "doc")
    fields = [
        {"name": f.name, "type": f.type, "default": f.default, "doc": f.doc, "choices": f.choices,
         "minimum": f.minimum, "maximum": f.maximum}
        for f in info.fields
    ]  # fmt: skip
    needs = sorted(str(need) for need in info.needs)
    return {key: getattr(info, key) for key in keys} | {"needs": needs, "fields": fields}


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(models)
    app.command()(policies)
