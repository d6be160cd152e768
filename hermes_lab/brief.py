"""Values in few words: records that fit a line where numpy's own text would fill a notebook, bytes, ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any, cast

LONGEST_TEXT = 60  # characters of a string
MOST_ITEMS = 4  # of a collection that is written out


class Brief:
    """Base of dataclasses (with `repr=False`) whose `repr` shows arrays by type and shape, collections by size."""

    def __repr__(self) -> str:
        shown = [field.name for field in fields(cast(Any, self)) if field.repr]
        inside = ", ".join(f"{name}={brief(getattr(self, name))}" for name in shown)
        return f"{type(self).__name__}({inside})"


def brief(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, str):
        whole = len(value) <= LONGEST_TEXT
        return repr(value if whole else f"{value[: LONGEST_TEXT - 1]}…")
    if isinstance(value, PurePath):
        return brief(str(value))
    if isinstance(value, float):
        return f"{value:.6g}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if is_dataclass(value):
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        named = cast("Mapping[Any, Any]", value)
        return _listed("{", [brief(key) for key in list(named)[: MOST_ITEMS + 1]], len(named), "}")
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes):
        items = (
            list(cast("Sequence[Any]", value)[: MOST_ITEMS + 1])
            if isinstance(value, Sequence)
            else []
        )
        plain = all(isinstance(item, str | int | float) or item is None for item in items)
        return _listed("(", [brief(item) for item in items], len(value), ")", shown=plain)
    text = repr(value)
    return text if len(text) <= LONGEST_TEXT else f"<{type(value).__name__}>"


def bytes_text(count: float) -> str:
    """Bytes for people: 1536 is "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span_text(values: Iterable[int]) -> str:
    """The smallest and the largest of some whole numbers, of layers for the most part: "3 to 1,024", or one of them
    where they are equal; 0 where there is none."""
    found = list(values)
    low, high = min(found, default=0), max(found, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _listed(opening: str, words: list[str], count: int, closing: str, shown: bool = True) -> str:
    """Few plain items in full, more of them as their number."""
    if shown and count <= MOST_ITEMS:
        return f"{opening}{', '.join(words)}{closing}"
    return f"<{count} items>"
