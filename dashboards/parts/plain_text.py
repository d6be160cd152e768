"""Words from files, links and models on a page: text that UTF-8 can carry, and that Markdown leaves as it is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

_LONE = re.compile("[\ud800-\udfff]")
_MARKS = re.compile(
    r"([\\`*<$~|&]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # inside of a word it means nothing
    r"|\](?=[(\[:])"  # the end of a link's or a picture's text
    r"|:(?=[\w-]+[\[{]))"  # Streamlit's colours
)
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)
_FIRST_IN_LINE = re.compile(r"^(\d+)(?=[.)])|^(?=[-+=#>])", re.MULTILINE)
_UNPORTABLE = re.compile(r'[\x00-\x1f\x7f\\/:*?"<>|]')


def printable(text: str) -> str:
    """The text with what UTF-8 cannot carry written out: a byte of a file name that is no UTF-8 becomes `\\xe9`."""
    return _LONE.sub(lambda found: _written_out(ord(found[0])), text)


def _written_out(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def plain(text: object) -> str:
    """Markdown that shows the text as it stands: no emphasis, no formula, no link, no picture."""
    marked = _MARKS.sub(r"\\\1", _INDENT.sub("", printable(str(text))))
    return _FIRST_IN_LINE.sub(lambda found: f"{found[1] or ''}\\", marked)


def code(text: object) -> str:
    """The text as Markdown's code, in one line; nothing where there is none."""
    said = printable(str(text)).replace("\n", " ")
    if not said:
        return ""
    fence = "`" * (1 + max(map(len, re.findall("`+", said)), default=0))
    room = " " if "`" in (said[0], said[-1]) else ""
    return f"{fence}{room}{said}{room}{fence}"


def portable(name: str) -> str:
    """A file name that other systems take as well."""
    return _UNPORTABLE.sub("_", printable(name))


def called(folders: Iterable[Path], taken: Collection[str] = ()) -> dict[str, Path]:
    """Folders by distinct names that a page can show and a link can carry.

    A folder keeps its name where that is UTF-8 and nobody else's (`taken`); names that have to be written otherwise
    give way to those that need not.
    """
    found: dict[str, Path] = {}

    def is_changed(folder: Path) -> bool:
        return printable(folder.name) != folder.name or folder.name in taken

    for folder in sorted(folders, key=is_changed):
        name = printable(folder.name)
        while name in found or name in taken:
            name += "_"
        found[name] = folder
    return found
