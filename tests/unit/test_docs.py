"""The documentation says what the code says: links, commands, quoted sentences, generated pages."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer

from hermes_lab.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")],
)
ELSEWHERE = re.compile(r"^(https?:|mailto:)")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _without_code(text: str) -> str:
    text = re.sub(r"^\s*```.*?^\s*```\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


# --- links ------------------------------------------------------------------------------------
def _anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as Markdown's table of contents makes them."""
    found: set[str] = set()
    text = re.sub(r"^\s*```.*?^\s*```\s*$", "", _text(path), flags=re.DOTALL | re.MULTILINE)
    for line in re.findall(r"^#{1,6}\s+(.*)$", text, re.MULTILINE):
        given = re.search(r"\{\s*#([\w-]+)", line)
        if given:
            found.add(given[1])
            continue
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line)
        plain = re.sub(r"[^\w\s-]", "", plain.replace("`", "")).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", plain))
    return found


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_internal_links_lead_somewhere(page: Path) -> None:
    broken: list[str] = []
    links = re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", _without_code(_text(page)))
    links += re.findall(r"<img[^>]+src=\"([^\"]+)\"", _text(page))
    for link in links:
        if ELSEWHERE.match(link):
            continue
        target, _, anchor = link.partition("#")
        path = page if not target else (page.parent / target).resolve()
        wrong_anchor = (
            anchor and path.suffix == ".md" and path.exists() and anchor not in _anchors(path)
        )
        if not path.exists() or wrong_anchor:
            broken.append(link)
    assert not broken


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"([\w/-]+\.md)\s*$", _text(ROOT / "mkdocs.yml"), re.MULTILINE))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages


def test_every_notebook_is_described() -> None:
    page = _text(ROOT / "docs" / "notebooks.md")
    names = [path.stem for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert names
    assert [name for name in names if name not in page] == []


# --- the command line ----------------------------------------------------------------------------
def _script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_command_line_page_is_current() -> None:
    script = _script("docs_cli")
    assert _text(script.PAGE) == script.page(), "run `python scripts/docs_cli.py`"


def _commands(text: str) -> list[str]:
    """Commands of `hermes-lab` in shell blocks and inline code, continued lines joined."""
    blocks = re.findall(r"```(?:bash|console|sh)\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(hermes-lab [^`\n]+)`", text)
    found = [line.strip().removeprefix("$ ") for line in [*lines, *inline]]
    return [line.split(" # ")[0].strip() for line in found if line.startswith("hermes-lab ")]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_and_options_exist(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    for line in _commands(_text(page)):
        _, name, *words = [w for w in shlex.split(line) if w not in ("[OPTIONS]",)]
        if name.startswith("-"):
            continue
        assert name in group.commands, line
        known = {flag for p in group.commands[name].params for flag in (*p.opts, *p.secondary_opts)}
        unknown = [
            w for w in words if w.startswith("--") and w.split("=")[0] not in known | {"--help"}
        ]
        assert not unknown, f"{line}: {unknown}"


# --- sentences of the code -------------------------------------------------------------------------
def _sentences() -> list[str]:
    """Every string of the engine and the studies, with an ellipsis where a value is put in."""
    found: list[str] = []
    for path in sorted([*(ROOT / "hermes_lab").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")]):
        for node in ast.walk(ast.parse(_text(path))):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                found.append("".join(str(p) for p in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [re.sub(r"…+", "…", " ".join(text.split())) for text in found]


def test_quoted_sentences_are_those_of_the_code() -> None:
    quoted = re.findall(r"^> `(.+)`$", _text(ROOT / "docs" / "troubleshooting.md"), re.MULTILINE)
    assert len(quoted) >= 20
    known = _sentences()
    assert [q for q in quoted if not any(q in sentence for sentence in known)] == []


# --- diagrams ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("diagrams/*.svg")), ids=_name)
def test_diagrams_can_be_read_in_the_dark_and_aloud(path: Path) -> None:
    picture = ElementTree.parse(path).getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert (picture.findtext(f"{space}title") or "") and (picture.findtext(f"{space}desc") or "")
    assert "prefers-color-scheme: dark" in (picture.findtext(f"{space}style") or "")
    background = picture.find(f"{space}rect[@class='bg']")
    assert background is not None
    assert (background.get("width"), background.get("height")) == (
        picture.get("width"),
        picture.get("height"),
    )
