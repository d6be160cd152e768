"""Finding model families: those of this folder, those of installed packages, and those of a notebook.

A family is a complete subclass of `Adapter`. One of this folder is listed in `_OWN`; a package of your own announces
its class under the entry-point group `hermes_lab.families`; what lives in a notebook is given to `register`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hermes_lab.errors import ModelError
from hermes_lab.models.base import Adapter
from hermes_lab.models.gemma3 import Gemma3
from hermes_lab.models.idefics3 import Idefics3
from hermes_lab.models.internvl import InternVL
from hermes_lab.models.llava_onevision import LlavaOnevision
from hermes_lab.models.qwen2_5_vl import Qwen2_5VL
from hermes_lab.models.qwen3_vl import Qwen3VL
from hermes_lab.plugins import Plugins

GROUP = "hermes_lab.families"
_OWN: tuple[type[Adapter], ...] = (LlavaOnevision, Qwen2_5VL, Qwen3VL, Idefics3, InternVL, Gemma3)
BUILTIN: dict[str, type[Adapter]] = {adapter.family: adapter for adapter in _OWN}

_registered: dict[str, type[Adapter]] = {}


@dataclass(frozen=True)
class FamilyInfo:
    """One supported family, for listings.

    Attributes:
        name: the adapter's family.
        model_types: `model_type` values of config.json that it takes.
        rotary_axes: 1, or 3 for M-RoPE.
        examples: hub ids of checkpoints.
        note: one line on how it streams.
        origin: "built-in", "registered", or the distribution that it came with.
    """

    name: str
    model_types: tuple[str, ...]
    rotary_axes: int
    examples: tuple[str, ...]
    note: str
    origin: str = "built-in"


def families() -> list[FamilyInfo]:
    """The supported model families: those of this folder, then the others by name."""
    known = [(adapter, "built-in") for adapter in BUILTIN.values()]
    known += [(adapter, _origin(name)) for name, adapter in sorted(_others().items())]
    return [
        FamilyInfo(a.family, a.model_types, a.rotary_axes, a.examples, a.note, origin)
        for a, origin in known
    ]


def problems() -> tuple[str, ...]:
    """One sentence for each installed plug-in that could not be used."""
    return tuple(_plugins.problems().values())


def adapter_class(name: str, model_type: str | None) -> type[Adapter]:
    """The family that takes a `model_type` of config.json; no plug-in is loaded for one of this folder's.

    Args:
        name: what the model was asked for by, for the error.

    Raises:
        ModelError: no family takes it.
    """
    found = _taking(model_type, BUILTIN) or _taking(model_type, _others())
    if found is not None:
        return found
    supported = ", ".join(kind for info in families() for kind in info.model_types)
    raise ModelError(
        f"{name} is a model of type {model_type!r}, which cannot be streamed here; supported types are "
        f"{supported}."
    )


def register(adapter: type[Adapter]) -> type[Adapter]:
    """Make a family of a notebook or script loadable; also a decorator, and may be repeated.

    Raises:
        ModelError: the class is no complete family, or takes a name or a model type that is taken.
    """
    others = {name: known for name, known in _others().items() if name not in _registered}
    fault = _fault(adapter)
    if fault is None and adapter.family in BUILTIN.keys() | others.keys():
        fault = f"the name {adapter.family!r} belongs to another family; choose another"
    if fault is None:
        fault = _clash(adapter, (*BUILTIN.values(), *_others().values()))
    if fault is not None:
        called = getattr(adapter, "__name__", adapter)
        raise ModelError(f"The family {called!r} cannot be registered: {fault}.")
    _registered[adapter.family] = adapter
    return adapter


def unregister(family: str) -> None:
    """Forget a class given to `register`; unknown names are ignored."""
    _registered.pop(family, None)


def _taking(model_type: str | None, known: Mapping[str, type[Adapter]]) -> type[Adapter] | None:
    return next((a for a in known.values() if model_type in a.model_types), None)


def _others() -> dict[str, type[Adapter]]:
    """Families that are not of this folder, by name."""
    return {**_plugins.found(), **_registered}


def _origin(name: str) -> str:
    return "registered" if name in _registered else _plugins.package(name)


def _plugin_fault(name: str, adapter: Any) -> str | None:
    """Why what an entry point names is no family of that name, or None."""
    fault = _fault(adapter)
    if fault is None and adapter.family != name:
        fault = f"its class is of the family {adapter.family!r}; both names must be the same"
    if fault is None:
        fault = _clash(adapter, (*BUILTIN.values(), *_plugins.sound().values()))
    return fault


def _fault(adapter: Any) -> str | None:
    """Why an object is no complete family, or None."""
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        return "it is not a subclass of hermes_lab.models.Adapter"
    if not re.fullmatch(r"[A-Za-z_]\w*", adapter.family):
        return "its class attribute 'family' must be a word of letters, digits and underscores"
    if inspect.isabstract(adapter):
        missing = ", ".join(sorted(adapter.__abstractmethods__))
        return f"it does not define {missing}"
    kinds: Any = adapter.model_types
    if not (isinstance(kinds, tuple) and kinds and all(isinstance(kind, str) for kind in kinds)):
        return "its class attribute 'model_types' must be a tuple of the model types that it takes"
    return None


def _clash(adapter: type[Adapter], known: Iterable[type[Adapter]]) -> str | None:
    """Which model type another family takes already, as a clause, or None."""
    for other in known:
        for kind in adapter.model_types:
            if kind in other.model_types and other.family != adapter.family:
                return f"its model type {kind!r} belongs to the family {other.family!r}"
    return None


_plugins = Plugins(GROUP, "model family", BUILTIN, _plugin_fault)
