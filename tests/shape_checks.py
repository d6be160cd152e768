"""Shapes and dtypes of tensors, checked against the annotations of every function of the package in all tests.

Other annotations are left to the static type checker: tests hand wrong kinds of things in on purpose.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, install_import_hook

PACKAGE = Path(__file__).parents[1] / "hermes_lab"
UNCHECKED = {
    "memory.py",  # a check would hold the frames of an error, and with them what did not fit
    "policies/base.py",  # fields of a view are given as functions and read as tensors
}
_CHECK = beartype(conf=BeartypeConf(is_pep484_tower=True))
_SHAPES = re.compile(r"\b(Float|Int|Bool|Shaped|Num|UInt8)\[")


def shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with a check of what is annotated with a shape; what jaxtyping calls for each function."""
    if not isinstance(function, FunctionType):
        return function
    same = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )  # fmt: skip
    same.__kwdefaults__, same.__qualname__ = function.__kwdefaults__, function.__qualname__
    known = function.__annotations__
    same.__annotations__ = {name: hint for name, hint in known.items() if _has_shape(hint)}
    return _CHECK(same)


def _has_shape(hint: Any) -> bool:
    if isinstance(hint, str):
        return _SHAPES.search(hint) is not None
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(_has_shape(part) for part in typing.get_args(hint))


def modules() -> list[str]:
    """Names of all modules of the package that are checked."""
    paths = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    named = [path for path in paths if path.name[0] != "_" and path.as_posix() not in UNCHECKED]
    return sorted(".".join(["hermes_lab", *path.with_suffix("").parts]) for path in named)


def install() -> None:
    """Check from now on; nothing of the package may have been imported yet."""
    # jaxtyping imports the name before the first dot and evaluates the rest
    install_import_hook(modules(), f"sys.modules[{__name__!r}].shapes")
