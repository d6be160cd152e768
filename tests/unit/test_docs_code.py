"""Every Python block of README and docs runs, page by page, in the order in which a reader would type it.

A block with a title is a quotation from the file of that name, and is compared with it instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
TITLE = re.compile(r'title="([^"]+)"')
EXAMPLES = ("plugin_example", "study_example", "family_example")
QUOTED_FROM = (ROOT, *(ROOT / "tests" / example for example in EXAMPLES))
REASON = "# not run by the tests: "


@dataclass(frozen=True)
class Block:
    """One fenced block: the rest of its first line, its code, and where it begins."""

    info: str
    code: str
    line: int


def blocks(text: str) -> list[Block]:
    """The Python blocks of a page; blocks inside lists or admonitions lose their indentation."""
    found: list[Block] = []
    for match in re.finditer(
        r"^([ ]*)```python([^\n]*)\n(.*?)^\1```\s*$", text, re.DOTALL | re.MULTILINE
    ):
        indent, info, body = match.groups()
        code = "\n".join(line.removeprefix(indent) for line in body.splitlines())
        found.append(Block(info.strip(), code, text[: match.start()].count("\n") + 2))
    return found


WITH_CODE = [p for p in PAGES if blocks(p.read_text(encoding="utf-8"))]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n```\n\n- b\n\n  ```python no-run\n  # why\n  y = 2\n  ```\n"
    assert blocks(text) == [Block("", "x = 1", 3), Block("no-run", "# why\ny = 2", 9)]


@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_blocks_that_are_not_run_say_why(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        assert block.info in ("", "no-run") or TITLE.fullmatch(block.info), (
            f"{_name(page)}:{block.line}"
        )
        if block.info == "no-run":
            compile(block.code, f"{_name(page)}:{block.line}", "exec")
            assert block.code.startswith(REASON), f"{_name(page)}:{block.line}"


@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_quoted_files_say_that(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        title = TITLE.fullmatch(block.info)
        if title is not None:
            files = [folder / title[1] for folder in QUOTED_FROM if (folder / title[1]).exists()]
            assert any(block.code in f.read_text(encoding="utf-8") for f in files), (
                f"{_name(page)}:{block.line}"
            )


@pytest.mark.parametrize("page", WITH_CODE, ids=_name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.info:
            continue
        # blank lines in front make tracebacks point at the page's own lines
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        exec(code, namespace)  # the project's own pages
