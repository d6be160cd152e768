"""The one place where a policy's methods are called and their answers taken.

Whatever a method raises, writes into what it was shown, or answers in a kind that the contract does not name
becomes a PolicyError of one sentence that names the policy, the method and the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from hermes_lab.errors import LabError, PolicyError
from hermes_lab.memory import is_out_of_memory
from hermes_lab.policies.base import Arrival, LayerView, Policy, RecallView

Answer = TypeVar("Answer")
Kind = TypeVar("Kind")

TOLD = 300  # characters that a sentence passes on of what a policy raised
MOST = 2**63 - 1  # of whole numbers: recordings hold 64 bits

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
INDICES = frozenset({torch.int16, torch.int32, torch.int64})  # one byte: more likely a mask
NUMBERS = FLOATS | INDICES | {torch.int8, torch.uint8}


class Seal:
    """The tensors that a policy is shown, to see whether it wrote into one; torch counts writes by itself.

    What a view makes when it is looked at (`policies.late`) is let go when the method is over: of copies of keys and
    values there are then those of one layer, not of all.
    """

    def __init__(self, shown: LayerView | Arrival | RecallView) -> None:
        self._shown = vars(shown)
        self._named = {n: v for n, v in self._shown.items() if type(v) is Tensor}
        for name in ("attention", "queries", "carried"):
            several = self._shown.get(name)
            if several is not None and type(several) is not Tensor:
                self._named |= {f"{name}[{key}]": one for key, one in several.items()}
        self._late = {n: v for n, v in self._shown.items() if callable(v)}
        try:
            self._versions = [one._version for one in self._named.values()]
        except RuntimeError:  # torch does not count writes to inference tensors
            self._named, self._versions = {}, []

    def broken(self) -> str | None:
        """The name of a tensor that was written to since the method was called; None: all are as they were."""
        names: list[str] = []
        now = [one._version for one in self._named.values()]
        if now != self._versions:
            pairs = zip(self._named, now, self._versions, strict=True)
            names = [name for name, new, old in pairs if new != old]
        for name, make in self._late.items():
            made = self._shown[name]
            if type(made) is Tensor:
                self._shown[name] = make
                if not made.is_inference() and made._version:
                    names.append(name)
        return names[0] if names else None


def name_of(policy: Policy) -> str:
    """What a policy is called in error sentences."""
    return policy.name or type(policy).__name__


def call(
    policy: Policy,
    method: str,
    layer: int | None,
    function: Callable[[], Answer],
    shown: Sequence[Seal] = (),
) -> Answer:
    """Run a policy's method, and whatever turns its answer into plain values; what it raises becomes one sentence.

    Running out of memory is not the policy's fault and passes as it is.

    Args:
        shown: seals of what the method can see.

    Raises:
        PolicyError: the method raised, or wrote into what it was shown.
    """
    try:
        answer = function()
    except LabError as error:
        if told(str(error)) == str(error):
            raise
        own = next(kind for kind in type(error).__mro__ if kind.__module__ == LabError.__module__)
        raise own(told(str(error))) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise PolicyError(
            f"Policy {name_of(policy)!r} failed in {method}(){at(layer)}: {_described(error)}. "
            "Nothing was changed; fix the policy or choose another."
        ) from error
    for seal in shown:
        written = seal.broken()
        if written is not None:
            raise PolicyError(
                f"Policy {name_of(policy)!r} wrote into {written!r} in {method}(){at(layer)}; what a policy is "
                "shown is read-only, so let it work on a copy (clone())."
            )
    return answer


def told(text: str) -> str:
    """The first line of a text, cut where it is longer than a sentence."""
    line = (text.splitlines() or [""])[0].strip()
    return line if len(line) <= TOLD else line[:TOLD].rstrip() + "…"


def _described(error: Exception) -> str:
    """Type and first line of a foreign exception, without a full stop."""
    try:
        line = told(str(error)).rstrip(" .")
    except Exception:  # an exception that cannot say what it is
        line = ""
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def expect(
    policy: Policy, method: str, layer: int | None, value: Any, kind: type[Kind], what: str
) -> Kind:
    """The value, if it is of the kind that the contract names.

    Raises:
        PolicyError: it is not.
    """
    if not isinstance(value, kind):
        refuse(policy, method, layer, f"a {type(value).__name__}", what)
    return value


def refuse(policy: Policy, method: str, layer: int | None, got: str, what: str) -> NoReturn:
    """Say what a method returned and what it must be.

    Raises:
        PolicyError: always.
    """
    raise PolicyError(
        f"Policy {name_of(policy)!r} returned {got} from {method}(){at(layer)}; it must be {what}."
    )


def is_plain(value: Any, kinds: frozenset[torch.dtype] | None = None) -> bool:
    """Whether a value is a tensor that can be worked with as it is: dense, real, of one of the given types."""
    return (
        type(value) is Tensor
        and value.layout is torch.strided
        and (kinds is None or value.dtype in kinds)
        and not (value.is_nested or value.is_meta or value.requires_grad)
    )


def tensor(
    policy: Policy,
    method: str,
    layer: int | None,
    value: Any,
    what: str,
    kinds: frozenset[torch.dtype] | None = None,
) -> Tensor:
    """A tensor that can be worked with (see `is_plain`), cut off from a graph that it may belong to.

    Raises:
        PolicyError: it is not.
    """
    given = expect(policy, method, layer, value, Tensor, what)
    got = None
    if type(given) not in (Tensor, nn.Parameter):
        got = f"a {type(given).__name__}"
    elif given.is_nested or given.layout is not torch.strided:
        got = f"a tensor that is not dense ({'nested' if given.is_nested else given.layout})"
    elif given.is_meta:
        got = "a tensor on the device 'meta', which holds no numbers"
    elif kinds is not None and given.dtype not in kinds:
        got = f"a tensor of type {given.dtype}"
    if got is not None:
        refuse(policy, method, layer, got, what)
    return given.detach()


def whole(policy: Policy, method: str, layer: int | None, value: Any, least: int = 0) -> int:
    """A whole number of at least `least`.

    Raises:
        PolicyError: it is none.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        refuse(policy, method, layer, f"a {type(value).__name__}", "a whole number")
    if not least <= value <= MOST:
        refuse(policy, method, layer, "a number out of range", f"between {least} and {MOST}")
    return int(value)


def truth(policy: Policy, method: str, layer: int | None, value: Any) -> bool:
    """True or False; also as a number or as a tensor of one element.

    Raises:
        PolicyError: it is neither.
    """
    what = "True or False"
    if isinstance(value, Tensor) and value.numel() == 1:
        value = call(
            policy, method, layer, lambda: tensor(policy, method, layer, value, what).item()
        )
    if not isinstance(value, bool | int | np.bool_ | np.integer):
        refuse(policy, method, layer, f"a {type(value).__name__}", what)
    return bool(value)


def at(layer: int | None) -> str:
    """The layer, as the tail of a phrase."""
    return "" if layer is None else f" at layer {layer}"
