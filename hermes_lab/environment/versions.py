"""Versions: those found, those that the project allows, and those that it was tested with.

`tested_versions.json` is the only place that says what was tested. What is allowed is read from the project's
own metadata.
"""

from __future__ import annotations

import json
import platform
import re
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from hermes_lab.environment.checks import Check, State, install

PACKAGE = Path(__file__).resolve().parents[1]
TESTED_FILE = PACKAGE / "tested_versions.json"
PAIR = ("transformers", "transformer-lens")
"""The two packages whose internals the engine relies on: they are tested together."""
_NAME = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)(.*)")
_BOUND = re.compile(r"(>=|<=|==|<|>)\s*([0-9.]+)")


def own_version() -> str:
    """The version of this package, as it says itself; importing the package's face by name would bring every room."""
    return str(vars(sys.modules[__name__.partition(".")[0]])["__version__"])


@cache
def tested_pairs() -> tuple[tuple[str, str], ...]:
    """Versions of transformers and transformer-lens that passed the tests together, oldest first."""
    rows: list[list[str]] = _tested_file()["tested"]
    return tuple((row[0], row[1]) for row in rows)


@cache
def locked() -> dict[str, str]:
    """The version of each other direct dependency that the tests ran with."""
    return dict(_tested_file()["locked"])


def _tested_file() -> dict[str, Any]:
    return json.loads(TESTED_FILE.read_text(encoding="utf-8"))


@cache
def allowed() -> dict[str, str]:
    """Direct dependencies and the versions allowed: `{"torch": ">=2.6", ...}`.

    From pyproject.toml in a checkout, else from the metadata of the installed package.
    """
    requirements, _ = _project()
    found: dict[str, str] = {}
    for line in requirements:
        match = _NAME.fullmatch(line)
        if match is not None and "extra" not in match[3]:
            bounds = [part.strip() for part in match[2].split(",") if part.strip()]
            found[match[1].lower()] = ",".join(sorted(bounds, key=lambda b: b[0] == "<"))
    return found or dict.fromkeys((*PAIR, *locked()), "")


def allowed_python() -> str:
    """Versions of Python allowed, such as ">=3.11"."""
    return _project()[1]


def _project() -> tuple[list[str], str]:
    """Requirements and versions of Python, as the project declares them."""
    file = PACKAGE.parent / "pyproject.toml"
    if file.exists():
        project: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == "hermes-lab":
            return list(project["dependencies"]), str(project["requires-python"])
    try:
        about = metadata.metadata("hermes-lab")
    except metadata.PackageNotFoundError:
        return [], ""
    return metadata.requires("hermes-lab") or [], about["Requires-Python"]


def installed(package: str) -> str | None:
    """The installed version of a package, None where it is not installed; nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def satisfies(version: str, bounds: str) -> bool:
    """Whether a version lies within bounds such as ">=5.23,<6"; a pre-release counts as its release."""
    have = _release(version)
    for sign, bound in _BOUND.findall(bounds):
        limit = _release(bound)
        width = max(len(have), len(limit))
        left, right = (part + (0,) * (width - len(part)) for part in (have, limit))
        if not {">=": left >= right, "<=": left <= right, "==": left == right,
                "<": left < right, ">": left > right}[sign]:  # fmt: skip
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def _public(version: str | None) -> str | None:
    """A version without the name of its build: 2.13.0 of 2.13.0+cpu."""
    return None if version is None else version.partition("+")[0]


def untested() -> str | None:
    """One sentence where the installed pair is none of those that were tested, else None."""
    pair = tuple(_public(installed(name)) for name in PAIR)
    if pair in tested_pairs():
        return None
    have = " with ".join(
        f"{name} {version or '(not installed)'}" for name, version in zip(PAIR, pair, strict=True)
    )
    return (
        f"HERMES Lab was not tested with {have}, but with {_pairs()}: results may differ; "
        "`hermes-lab doctor` says how to get tested versions."
    )


def _pairs() -> str:
    return " and ".join(" / ".join(pair) for pair in tested_pairs())


def python() -> Check:
    """The running Python."""
    version, wanted = platform.python_version(), allowed_python()
    fits = satisfies(version, wanted)
    return Check(
        "Python", "ok" if fits else "outside", f"{version} on {platform.system()} {platform.machine()}", wanted,
        None if fits else f"install Python {wanted} and make a new environment with it", True,
        {"version": version, "implementation": platform.python_implementation()},
    )  # fmt: skip


def packages() -> list[Check]:
    """Every direct dependency."""
    return [_package(name, bounds) for name, bounds in allowed().items()]


def _package(name: str, bounds: str) -> Check:
    version = installed(name)
    tests = _tested_versions(name)
    facts = {"version": version, "allowed": bounds, "tested": tests}
    wanted = f"{bounds or 'any'} (tested: {', '.join(tests) or 'none'})"
    fix = install(name + bounds)
    state: State = "ok"
    if version is None:
        state = "missing"
    elif not satisfies(version, bounds):
        state = "outside"
    elif name in PAIR and untested() is not None:
        state = "untested"
        newest = zip(PAIR, tested_pairs()[-1], strict=True)
        fix = install(*(f"{package}=={tried}" for package, tried in newest))
    return Check(name, state, version, wanted, None if state == "ok" else fix, True, facts)


def _tested_versions(name: str) -> list[str]:
    if name in PAIR:
        return list(dict.fromkeys(pair[PAIR.index(name)] for pair in tested_pairs()))
    return [locked()[name]] if name in locked() else []
