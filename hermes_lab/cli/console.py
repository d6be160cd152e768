"""Where commands write: results to standard output, everything else to standard error."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.text import Text

out = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def note(sentence: str) -> None:
    """A sentence for whoever reads along; brackets in it stay as they are."""
    errors.print(Text.assemble(("Note:", "yellow"), " ", sentence), soft_wrap=True)


def print_json(value: Any) -> None:
    """Machine-readable output, unwrapped and uncoloured, NaN written as null."""
    print(json.dumps(_clean(value), ensure_ascii=False))


def _clean(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, dict):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    return value


def mebibytes(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def milliseconds(seconds: float) -> str:
    """A short time as a person reads it."""
    return "-" if seconds != seconds else f"{seconds * 1e3:.1f} ms"
