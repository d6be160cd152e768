"""Write what was tested into the package, for `hermes-lab doctor`: locked versions, and pairs that `make matrix` passed.

python scripts/tested_versions.py    # after `make lock`, which runs it
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "hermes_lab" / "tested_versions.json"


def pins() -> dict[str, str]:
    """Versions of constraints.txt; of a name with several, the one for the oldest Python."""
    found = re.findall(
        r"^([\w.-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text("utf-8"), re.M
    )
    return dict(reversed(found))


def direct() -> list[str]:
    """Names of the packages that the project asks for by itself."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    return [re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0] for requirement in wanted]


def write_lock() -> None:
    """Take the locked versions over; torch, which the lock leaves out, stays as it is."""
    known, locked = json.loads(FILE.read_text("utf-8")), pins()
    names = [name for name in direct() if name not in ("transformers", "transformer-lens")]  # pairs
    known["locked"] = {name: locked.get(name, known["locked"].get(name)) for name in names}
    _write(known)


def add_pairs(passed: Iterable[tuple[str, str]]) -> None:
    """Add pairs (transformers, transformer-lens) that passed the matrix."""
    known = json.loads(FILE.read_text("utf-8"))
    pairs = {tuple(pair) for pair in known["tested"]} | set(passed)
    known["tested"] = sorted(pairs, key=lambda pair: [[int(n) for n in v.split(".")] for v in pair])
    _write(known)


def _write(known: dict[str, object]) -> None:
    text = json.dumps(known, indent=1)
    text = re.sub(r"\[\s+(\"[\d.]+\"),\s+(\"[\d.]+\")\s+\]", r"[\1, \2]", text)
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_lock()
