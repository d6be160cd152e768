"""What an adapter cannot do with the settings of its checkpoint is told in one sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from hermes_lab.errors import LabError, ModelError
from hermes_lab.memory import is_out_of_memory

P = ParamSpec("P")
T = TypeVar("T")

METHODS = ("prefix", "encode", "question", "text", "turn_boundary", "frame_layout")
_LONGEST = 200  # characters of somebody else's message


def told(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """The method of an adapter, whose foreign exceptions become a `ModelError`.

    Sizes, means and templates of a checkpoint fit each other in endless ways, or do not; what is wrong with them shows
    when they are used.
    """

    @functools.wraps(method)
    def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except (LabError, NotImplementedError):
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            line = (str(error).strip().splitlines() or [""])[0][:_LONGEST].rstrip(" .")
            raise ModelError(
                f"{self.name or self.family} failed in {method.__name__}() ({type(error).__name__}: {line}); its "
                "settings do not fit each other, so compare them with those of the original model."
            ) from error

    return run
