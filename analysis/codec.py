"""Frozen dataclasses to JSON and back: plain data only, NaN as null, unknown fields refused."""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar

import numpy as np

from hermes_lab.errors import LabError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """A value as JSON knows it; numbers that are not finite become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    raise LabError(f"A report cannot hold a {type(value).__name__}.")


def dumps(value: Any, *, indent: int | None = 1) -> str:
    """JSON text of a dataclass."""
    return json.dumps(to_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def loads(cls: type[T], text: str) -> T:
    """A dataclass from JSON text.

    Raises:
        LabError: the text is not JSON, or does not fit the class.
    """
    try:
        plain = json.loads(text)
    except json.JSONDecodeError as error:
        raise LabError(f"The report is not valid JSON: {error}.") from error
    return from_plain(cls, plain)


def from_plain(kind: Any, plain: Any) -> Any:
    """A value of type `kind` from plain data (dataclasses, enums, tuples, mappings, optionals, literals)."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is float:
        return math.nan if plain is None else float(plain)
    if kind is Any or kind is object:
        return plain
    if origin in (typing.Union, types.UnionType):
        if plain is None and type(None) in arguments:
            return None
        return from_plain(next(a for a in arguments if a is not type(None)), plain)
    if origin is typing.Literal:
        if plain not in arguments:
            raise LabError(f"{plain!r} is none of {', '.join(map(repr, arguments))}.")
        return plain
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is ...:
            return tuple(from_plain(arguments[0], p) for p in plain)
        return tuple(from_plain(a, p) for a, p in zip(arguments, plain, strict=True))
    if origin is not None and issubclass(origin, Mapping):
        return {k: from_plain(arguments[1], v) for k, v in plain.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    if is_dataclass(kind):
        return _dataclass(kind, plain)
    if kind in (str, int, bool) and isinstance(plain, kind):
        return plain
    raise LabError(f"The report holds {plain!r} where {kind} belongs.")


def _dataclass(kind: Any, plain: Any) -> Any:
    """A dataclass from a mapping with exactly its fields (those with defaults may lack)."""
    if not isinstance(plain, dict):
        raise LabError(f"The report holds {plain!r} where {kind.__name__} belongs.")
    hints = typing.get_type_hints(kind)
    unknown = set(plain) - set(hints)
    if unknown:
        raise LabError(f"{kind.__name__} has no field {sorted(unknown)[0]!r}.")
    try:
        return kind(**{name: from_plain(hints[name], value) for name, value in plain.items()})
    except TypeError as error:
        raise LabError(f"The report's {kind.__name__} is incomplete: {error}.") from error
