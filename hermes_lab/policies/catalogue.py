"""The table of all built-in policies, read off their classes: printed by the CLI and written to docs/policies.md."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

from hermes_lab.policies import pictured, registry
from hermes_lab.policies.base import Policy
from hermes_lab.policies.pictured import Pictured

# Steps of the contract in the order of a stream, and what it means that a policy defines one.
STEPS = {
    "admit": "gates before the decoder",
    "observe": "carries state",
    "score": "scores",
    "mix": "mixes layers",
    "budgets": "own budgets",
    "adapt_budgets": "adaptive budgets",
    "select": "own selection",
    "merge": "makes tokens",
}

_HEAD = """# Retention policies

<!-- Written by scripts/policy_pictures.py; do not edit by hand. -->

Every policy that `hermes-lab policies` lists. A policy is asked for by name, with its fields in brackets:
`--policy "snapkv(budget_tokens=512, kernel=7)"`; fields that hold policies take names too:
`--policy "instant(inner=hermes(budget_tokens=512), recent_frames=4)"`. How to write one is in
[write-a-policy.md](write-a-policy.md). Results of the original papers were obtained with their own code and models; the
deviations listed with each policy are ours.

- **Mechanism**: the steps of the contract that the policy defines.
- **Needs**: what the engine computes for it, beyond ids, positions, grid cells and times.
- **Granularity**: the unit of a decision, and whether KV heads may keep different ones.
- **At the question**: work that a question costs beyond reading the cache.
- **Licence**: of the original code. All code here was written from the papers and is Apache-2.0.
"""

_PICTURES = f"""## How to read the pictures

![Colour scale from light grey, nothing held, over blue to dark blue, all tokens of a frame held](images/policies/{pictured.LEGEND})

Each picture shows what a policy holds at the end of the bundled clip, in the pocket model: layers from top to bottom, with
gaps between shallow, middle and deep ones, frames from left to right, and in each cell the share of the frame's tokens that
the layer holds (mean over its KV heads). **cache** is what lies on the device; **enters** what a gate lets into the decoder;
**question** what a question at the end reads, where that is something else. All run with the same budget. The model is small
and the clip drawn by a program: the pictures show how the policies act, not how good they are. They are made by
`python scripts/policy_pictures.py`.
"""


@dataclass(frozen=True)
class Row:
    """One line of the table, all in words."""

    name: str
    keeps: str
    mechanism: str
    needs: str
    granularity: str
    query_time: str
    source: str
    licence: str


def rows() -> tuple[Row, ...]:
    """One row for each built-in policy, in the order of the registry."""
    return tuple(_row(name) for name in registry.BUILTIN)


def policy_table() -> str:
    """The table as Markdown."""
    heads = ("Policy", "Keeps", "Mechanism", "Needs", "Granularity", "At the question", "Source", "Licence")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in rows():
        cells = (
            f"[`{row.name}`](#{row.name})", row.keeps, row.mechanism, row.needs, row.granularity,
            row.query_time, row.source, row.licence,
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pictures_of(page_path: Path | str) -> Path:
    """The folder with the pictures of a page."""
    return Path(page_path).parent / "images" / "policies"


def page(pictures: Path | None = None) -> str:
    """All of docs/policies.md: the table, and for each policy its picture, its description and its fields.

    Args:
        pictures: folder that `scripts/policy_pictures.py` has filled; None: a page without pictures.
    """
    numbers = {} if pictures is None else pictured.load(pictures)
    sections = [_section(name, numbers.get(name)) for name in registry.BUILTIN]
    parts = [_HEAD, policy_table(), "", *([_PICTURES] if numbers else []), *sections]
    return "\n".join(parts)


def write(path: Path | str) -> None:
    """Write the page to a file, with the pictures that lie beside it."""
    Path(path).write_text(page(pictures_of(path)), encoding="utf-8")


def _row(name: str) -> Row:
    cls, fields = registry.policy_class(name), registry.info(name).fields
    takes_policies = any("Policy" in field.type for field in fields)
    ready = not any(field.required for field in fields)
    steps = ", ".join(words for step, words in STEPS.items() if _defines(cls, step))
    unit = f"{cls.granularity or 'token'}, per {'KV head' if cls.per_head else 'layer'}"
    inner = "as its parts" if takes_policies else None
    return Row(
        name=name,
        keeps=cls.title,
        mechanism=inner or steps,
        needs=inner or ", ".join(sorted(cls.needs)).replace("_", " ") or "nothing",
        granularity=inner or unit,
        query_time=_query_time(registry.get(name)) if ready else inner or "none",
        source=cls.source,
        licence=cls.licence or "-",
    )


def _query_time(policy: Policy) -> str:
    work: list[str] = []
    plan = policy.read_plan()
    if plan.recent_frames:
        many = f"{plan.recent_frames} frames" if plan.recent_frames > 1 else "frame"
        work.append(f"prefills the last {many}")
    if policy.recalls:
        work.append("retrieves in each layer")
    if policy.archives:
        stored = "quantised" if policy.codec() is not None else "as they are"
        work.append(f"from a store off the device ({stored})")
    return ", ".join(work) or "none"


def _defines(cls: type[Policy], step: str) -> bool:
    return getattr(cls, step) is not getattr(Policy, step)


def _section(name: str, picture: Pictured | None) -> str:
    found = registry.info(name)
    text = inspect.getdoc(registry.policy_class(name)) or ""
    lines = [f"## {name}", ""]
    if picture is not None:
        lines += [f"![{picture.words()}](images/policies/{name}.png)", "", f"Pictured: `{picture.run}`.", ""]  # fmt: skip
    elif name in pictured.UNPICTURED:
        lines += [f"No picture: it {pictured.UNPICTURED[name]}.", ""]
    lines += [text, ""]
    if found.presets:
        lines += ["Presets: " + ", ".join(f"`{name}:{p}`" for p in found.presets) + ".", ""]
    lines += [f"Position rule by default: {found.default_positions}.", ""]
    lines += ["| Field | Default | Takes | Meaning |", "| --- | --- | --- | --- |"]
    for field in found.fields:
        default = "required" if field.required else f"`{field.default!r}`"
        lines.append(
            f"| `{field.name}` | {default} | {field.takes} | {field.doc} |".replace("\n", " ")
        )
    return "\n".join([*lines, ""])
