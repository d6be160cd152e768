"""JSON that every reader takes: JSON has no NaN and no infinity, so numbers that are not finite are written as null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast


def finite(value: Any) -> Any:
    """Plain data (numbers, texts, lists, tuples, mappings) with null in place of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        named = cast("Mapping[Any, Any]", value)
        return {str(name): finite(one) for name, one in named.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in cast("list[Any]", value)]
    return value


def dumps(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """`json.dumps` of finite numbers."""
    return json.dumps(finite(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
