"""The page docs/policies.md: the table of all built-in policies, and each with its picture, description and fields.

`scripts/policy_pictures.py` writes it.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from hermes_lab.cli.policy_table import policy_table
from hermes_lab.policies import registry
from scripts import policy_pictured as pictured
from scripts.policy_pictured import Pictured

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
