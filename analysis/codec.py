"""Frozen dataclasses to JSON and back: plain data only, NaN as null, unknown fields refused.

cattrs walks the types; the hooks here say what is strict about a report and put a refusal into a sentence. Nothing is
converted on the way in: a number written as text, or a text where a list belongs, is a damaged report.
"""

from __future__ import annotations

import json
import math
import types
import typing
from collections.abc import Callable, Mapping, Set
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum, StrEnum
from typing import Any, NoReturn, TypeVar

import numpy as np
from cattrs import Converter
from cattrs.errors import ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from hermes_lab.errors import LabError

T = TypeVar("T")
_WORDS = {str: "text", int: "a whole number", bool: "true or false", float: "a number"}


def to_plain(value: Any) -> Any:
    """A value as JSON knows it; numbers that are not finite become null.

    Raises:
        LabError: it holds something that a report cannot.
    """
    return _converter.unstructure(value)


def dumps(value: Any, *, indent: int | None = 1) -> str:
    """JSON text of a dataclass."""
    return json.dumps(to_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def loads(cls: type[T], text: str) -> T:
    """A dataclass from JSON text.

    Raises:
        LabError: the text is not JSON, or does not fit the class.
    """
    try:
        return from_plain(cls, json.loads(text, parse_constant=_not_json))
    except ValueError as error:
        raise LabError(f"The report is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise LabError("The report is not valid: its lists are nested too deeply.") from error


def from_plain(kind: Any, plain: Any) -> Any:
    """A value of type `kind` from plain data (dataclasses, enums, tuples, mappings, optionals, literals).

    Raises:
        LabError: the data do not fit the type; the sentence names what was found and what belongs there.
    """
    return _converter.structure(plain, kind)


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


# --- out -------------------------------------------------------------------------------------------------
def _fields_out(value: Any) -> dict[str, Any]:
    return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}


def _float_out(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _refused(kind: type) -> Callable[[Any], Any]:
    def refuse(value: Any) -> NoReturn:
        raise LabError(f"A report cannot hold a {type(value).__name__}.")

    return refuse


# --- in --------------------------------------------------------------------------------------------------
def _misplaced(plain: Any, kind: Any) -> LabError:
    belongs = kind if isinstance(kind, str) else _WORDS.get(kind, kind.__name__)
    return LabError(f"The report holds {_shown(plain)} where {belongs} belongs.")


def _shown(plain: Any) -> str:
    shown = repr(plain)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _exactly(plain: Any, kind: type) -> Any:
    """Text, whole numbers and truth values as they are; True is no number."""
    if type(plain) is not kind:
        raise _misplaced(plain, kind)
    return plain


def _float_in(plain: Any, kind: type) -> float:
    if plain is None:
        return math.nan
    if type(plain) not in (int, float):
        raise _misplaced(plain, kind)
    try:
        return float(plain)
    except OverflowError as error:
        raise _misplaced(plain, kind) from error


def _one_of(plain: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if type(choice) is type(plain) and choice == plain:
            return choice
    raise LabError(f"{_shown(plain)} is none of {', '.join(map(repr, choices))}.")


def _enum_in(plain: Any, kind: type[Enum]) -> Enum:
    return kind(_one_of(plain, tuple(member.value for member in kind)))


def _tuple_in(plain: Any, kind: Any) -> tuple[Any, ...]:
    of = typing.get_args(kind)
    if not isinstance(plain, list):
        raise _misplaced(plain, "a list")
    items = typing.cast(list[Any], plain)
    if len(of) == 2 and of[1] is ...:
        return tuple(from_plain(of[0], item) for item in items)
    if len(of) != len(items):
        raise _misplaced(items, f"a list of {len(of)}")
    return tuple(from_plain(one, item) for one, item in zip(of, items, strict=True))


def _mapping_in(plain: Any, kind: Any) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise _misplaced(plain, "a mapping")
    of = typing.get_args(kind)[1]
    return {key: from_plain(of, item) for key, item in typing.cast(dict[str, Any], plain).items()}


def _fields_in(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    """A dataclass from a mapping with exactly its fields; those that have a default may be missing."""
    made = make_dict_structure_fn(
        kind, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=False
    )
    required = [
        f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING
    ]

    def structure(plain: Any, _: Any) -> Any:
        if not isinstance(plain, dict):
            raise _misplaced(plain, kind)
        missing = [name for name in required if name not in plain]
        try:
            if missing and set(plain) <= {f.name for f in fields(kind)}:
                raise LabError(
                    f"The report's {kind.__name__} is incomplete: it lacks {missing[0]!r}."
                )
            return made(typing.cast(dict[str, Any], plain), kind)
        except ForbiddenExtraKeysError as error:
            raise LabError(f"{kind.__name__} has no field {min(error.extra_fields)!r}.") from error

    return structure


def _made() -> Converter:
    """Hooks for everything that a report may hold; what has none is refused, and named."""
    made = Converter(unstructure_fallback_factory=_refused)
    for kind in (str, int, bool, types.NoneType):
        made.register_unstructure_hook(kind, lambda value: value)
    for kind in (bytes, Set):  # cattrs itself would let them pass
        made.register_unstructure_hook(kind, _refused(kind))
    made.register_unstructure_hook(float, _float_out)
    for kind in (Enum, StrEnum):
        made.register_unstructure_hook(kind, lambda value: value.value)
    for kind in (list, tuple):
        made.register_unstructure_hook(kind, lambda items: [to_plain(item) for item in items])
    made.register_unstructure_hook(
        Mapping, lambda items: {str(key): to_plain(item) for key, item in items.items()}
    )
    for kind in (np.ndarray, np.generic):
        made.register_unstructure_hook(kind, lambda value: to_plain(value.tolist()))
    made.register_unstructure_hook_func(is_dataclass, _fields_out)

    for kind in (str, int, bool):
        made.register_structure_hook(kind, _exactly)
    made.register_structure_hook(float, _float_in)
    for kind in (Enum, StrEnum):  # by name, since a StrEnum is a str as well
        made.register_structure_hook(kind, _enum_in)
    made.register_structure_hook_func(
        lambda t: typing.get_origin(t) is typing.Literal,
        lambda plain, kind: _one_of(plain, typing.get_args(kind)),
    )
    made.register_structure_hook_func(lambda t: typing.get_origin(t) is tuple, _tuple_in)
    made.register_structure_hook_func(lambda t: typing.get_origin(t) is Mapping, _mapping_in)
    made.register_structure_hook_factory(is_dataclass, _fields_in)
    return made


_converter = _made()
