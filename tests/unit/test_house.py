"""The rooms of the house: arrows run one way, there is no circle between rooms, and each room says what it is for."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[2]
CONTRACTS = ROOT / ".importlinter"
PACKAGE = "hermes_lab"
ENGINE_SIDE = (
    "hermes_lab.engine",
    "hermes_lab.retention",
    "hermes_lab.stream",
    "hermes_lab.policies",
)
FACES = {PACKAGE, f"{PACKAGE}.__main__"}  # they offer what is in the rooms; no room reads them

# What policies read beside `policies.base` and `policies.parts`.
WORDS = {"hermes_lab.errors", "hermes_lab.tokens"}
KIN = {
    ("hermes_lab.policies.pyramidkv", "hermes_lab.policies.snapkv"),  # it is a SnapKV
    ("hermes_lab.policies.combine.several", "hermes_lab.policies.full"),  # takes no budget
}
CONTRACT = {
    f"hermes_lab.policies.{name}"
    for name in ("base", "registry", "settings", "traits", "ranking", "late")
}


@pytest.fixture(scope="module")
def contracts() -> configparser.ConfigParser:
    found = configparser.ConfigParser()
    found.read(CONTRACTS, encoding="utf-8")
    return found


@pytest.fixture
def graph(contracts: configparser.ConfigParser) -> grimp.ImportGraph:
    """All imports, those under `TYPE_CHECKING` and inside functions too, but for the exceptions on record."""
    built = grimp.build_graph(
        PACKAGE, "analysis", "dashboards", cache_dir=None, exclude_type_checking_imports=False
    )
    for importer, imported in exceptions(contracts):
        built.remove_import(importer=importer, imported=imported)
    return built


def exceptions(contracts: configparser.ConfigParser) -> Iterator[tuple[str, str]]:
    """Imports that still run upwards."""
    lines = contracts["importlinter:contract:rooms"].get("ignore_imports", "").splitlines()
    for line in filter(None, (line.split("#")[0].strip() for line in lines)):
        importer, _, imported = line.partition(" -> ")
        yield importer, imported


def room(module: str) -> str:
    """The room of a module: its top package; `lab` is one of its own, the other files of the root are one together."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return parts[0]
    inside = len(parts) > 1 and (ROOT / PACKAGE / parts[1]).is_dir()
    return parts[1] if inside or parts[1:] == ["lab"] else "root files"


def circle(graph: grimp.ImportGraph) -> list[str]:
    """Rooms that import each other in a circle; none where there is no such circle."""
    arrows: dict[str, set[str]] = {}
    for module in sorted(graph.modules - FACES):
        for imported in graph.find_modules_directly_imported_by(module):
            if imported not in FACES and room(imported) != room(module):
                arrows.setdefault(room(module), set()).add(room(imported))
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_contracts_are_kept() -> None:
    # a process of its own: the command switches off every logger that there is
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    ran = subprocess.run(
        [sys.executable, "-c", command, "--config", str(CONTRACTS), "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_no_circle_is_longer_than_a_room(graph: grimp.ImportGraph) -> None:
    assert circle(graph) == []


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("hermes_lab.engine.forward", "hermes_lab.stream.session"),
        ("hermes_lab.models.loading", "hermes_lab.training.build"),
        ("hermes_lab.tokens", "hermes_lab.recording.reader"),
        ("hermes_lab.lens.knockout", "analysis.study"),
    ],
)
def test_a_circle_is_seen(graph: grimp.ImportGraph, importer: str, imported: str) -> None:
    graph.add_import(importer=importer, imported=imported)
    assert room(importer) in (found := circle(graph))
    assert room(imported) in found


def test_no_room_reads_the_face_of_the_package(graph: grimp.ImportGraph) -> None:
    """`hermes_lab` itself offers what is in all rooms: a room that imports it would know of all the others."""
    readers = graph.find_modules_that_directly_import(PACKAGE)
    assert {room(module) for module in readers - FACES} <= {"cli", "analysis", "dashboards"}


def test_every_room_has_a_place(contracts: configparser.ConfigParser) -> None:
    placed = contracts["importlinter:contract:rooms"]["layers"]
    named = {word.strip("()") for word in placed.replace("|", " ").replace(":", " ").split()}
    for folder in (ROOT / PACKAGE).iterdir():
        if (folder / "__init__.py").exists():
            assert f"{PACKAGE}.{folder.name}" in named, (
                f"{folder.name} has no line in .importlinter"
            )


def test_policies_read_the_contract_and_what_policies_share(graph: grimp.ImportGraph) -> None:
    methods = graph.find_descendants("hermes_lab.policies") - CONTRACT
    wrong: list[str] = []
    for module in sorted(methods):
        shared = ("hermes_lab.policies.base", "hermes_lab.policies.parts")
        if module.startswith("hermes_lab.policies.combine"):
            shared += ("hermes_lab.policies.combine", "hermes_lab.policies.registry")
        for imported in graph.find_modules_directly_imported_by(module):
            allowed = imported.startswith(shared) or imported in WORDS or (module, imported) in KIN
            wrong += [] if allowed else [f"{module} -> {imported}"]
    assert wrong == []


def test_the_engine_side_draws_and_prints_nothing() -> None:
    for package in ENGINE_SIDE:
        for path in (ROOT / package.replace(".", "/")).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
            assert not any(isinstance(f, ast.Name) and f.id == "print" for f in called), path


@pytest.mark.parametrize(
    "package",
    sorted(
        path.parent.relative_to(ROOT).as_posix() for path in (ROOT / PACKAGE).rglob("__init__.py")
    ),
)
def test_every_room_says_what_it_is_for_and_what_may_enter(package: str) -> None:
    doc = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8")))
    assert doc, package
    if package != PACKAGE:  # the face shows how to begin
        assert "enter" in doc, f"{package}: say what may enter"
