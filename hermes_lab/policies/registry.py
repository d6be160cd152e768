"""Finding policies by name: the built-in table, plug-ins of installed packages, and classes of a notebook.

A policy is asked for in one line of text, `name`, `name:preset` or either with options in brackets:

    hermes    hermes:released    fifo(budget_tokens=512)    uniform(budget_tokens=64, by=token)

Option values are Python literals; a bare word or a call (`by=token`, `policy=fifo(budget_tokens=8)`) is taken as text.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast, get_origin

from hermes_lab.brief import brief
from hermes_lab.errors import PolicyError, nearest
from hermes_lab.plugins import Plugins
from hermes_lab.policies.base import Need, Policy
from hermes_lab.policies.settings import FieldInfo, describe

GROUP = "hermes_lab.policies"
_LONGEST = (
    10_000  # characters of a policy in text; the longest prompts of presets have some hundreds
)

# One line for each policy: its name, and its class in the file of that name (or "file:Class"), imported when asked for.
BUILTIN: dict[str, str] = {
    "full": "Full",
    "fifo": "Fifo",
    "uniform": "Uniform",
    "random": "Random",
    "sink_recent": "SinkRecent",
    "recent_frames": "RecentFrames",
    "hermes": "Hermes",
    "h2o": "H2O",
    "snapkv": "SnapKV",
    "pyramidkv": "PyramidKV",
    "tova": "Tova",
    "keydiff": "KeyDiff",
    "knorm": "Knorm",
    "value_norm": "ValueNorm",
    "lagkv": "LagKV",
    "infinipot_v": "InfiniPotV",
    "streammem": "StreamMem",
    "livevlm": "LiveVLM",
    "streamkv": "StreamKV",
    "mukv": "MuKV",
    "streaming_vlm": "StreamingVLM",
    "fluxmem": "FluxMem",
    "streamingtom": "StreamingTOM",
    "curvestream": "CurveStream",
    "rekv": "ReKV",
    "dscache": "DSCache",
    "oracle": "Oracle",
    "every_nth": "gates:EveryNth",
    "merge_similar": "gates:MergeSimilar",
    "instant": "combine.wrap:Instant",
    "with_budget": "combine.wrap:WithBudget",
    "with_summary": "combine.wrap:WithSummary",
    "with_positions": "combine.wrap:WithPositions",
    "shared_heads": "combine.wrap:SharedHeads",
    "prefiltered": "combine.prefiltered:Prefiltered",
    "banded": "combine.several:Banded",
    "layered": "combine.several:Layered",
    "composed": "combine.composed:Composed",
    "kvpress": "KVPress",
}

_registered: dict[str, type[Policy]] = {}


@dataclass(frozen=True)
class PolicyInfo:
    """What a listing says about a policy: what the engine reads off it, and its fields.

    Attributes:
        presets: names that may follow the policy's own after a colon.
        origin: "built-in", "registered", or the distribution a plug-in came with.
        doc: first paragraph of the class docstring, in one line.
    """

    name: str
    title: str
    source: str
    licence: str
    needs: frozenset[Need]
    per_head: bool
    fields: tuple[FieldInfo, ...]
    presets: tuple[str, ...]
    archives: bool
    recalls: bool
    evaluation_only: bool
    default_positions: str
    origin: str
    doc: str


def get(spec: str, **overrides: Any) -> Policy:
    """The policy that a line of text asks for.

    Args:
        spec: as in the module docstring.
        overrides: field values that win over those in the text.

    Raises:
        PolicyError: unknown name, preset or field, or a value that its field does not take.
    """
    name, preset, options = parse(spec)
    return _build(name, preset, options | overrides)


def from_config(config: Mapping[str, Any]) -> Policy:
    """The policy that a manifest describes (the inverse of `Policy.config`, also after JSON).

    Raises:
        PolicyError: as for `get`; also where the manifest names no policy.
    """
    values = {key: _restore(value) for key, value in config.items()}
    name = values.pop("policy", None)
    if not isinstance(name, str):
        raise PolicyError("The policy's description has no name under 'policy'; it is incomplete.")
    return _build(name, None, values)


def names() -> list[str]:
    """All policies that can be asked for, sorted; plug-ins that cannot be loaded are left out and logged."""
    return sorted(BUILTIN.keys() | _plugins.found().keys() | _registered.keys())


def problems() -> tuple[str, ...]:
    """One sentence for each installed plug-in that could not be used."""
    return tuple(_plugins.problems().values())


def policy_class(name: str) -> type[Policy]:
    """The class behind a name (without preset or options).

    Raises:
        PolicyError: the name is unknown, or names a plug-in that cannot be loaded.
    """
    key = name.strip().replace("-", "_")
    if key in BUILTIN:
        file, _, attribute = BUILTIN[key].rpartition(":")
        loaded = importlib.import_module(f"{__package__}.{file or key}")
        return cast("type[Policy]", getattr(loaded, attribute))
    if key in _registered:
        return _registered[key]
    if key in _plugins.found():
        return _plugins.found()[key]
    if key in _plugins.problems():
        raise PolicyError(_plugins.problems()[key])
    raise PolicyError(f"There is no policy {brief(name)}; {nearest(key, names())}")


def info(spec: str) -> PolicyInfo:
    """What a listing says about one policy, as it is asked for: `hermes(summary=False)` needs less than `hermes`.

    A bare name stands for the policy with its default fields. One that must be given other policies, and is not,
    is listed with what its class says.

    Raises:
        PolicyError: as for `policy_class`, and as for `get` where more than a name is given.
    """
    cls = policy_class(parse(spec)[0]) if set(spec) & set(":(") else policy_class(spec)
    of = _example(spec, cls)
    return PolicyInfo(
        name=cls.name,
        title=cls.title,
        source=cls.source,
        licence=cls.licence,
        needs=frozenset(of.needs),
        per_head=of.per_head,
        fields=describe(cls),
        presets=tuple(cls.presets),
        archives=of.archives,
        recalls=of.recalls,
        evaluation_only=of.evaluation_only,
        default_positions=of.default_positions,
        origin=_origin(cls),
        doc=" ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split()),
    )


def register(cls: type[Policy]) -> type[Policy]:
    """Make a class of a notebook or script available by its `name`; also a decorator, and may be repeated.

    Raises:
        PolicyError: the class is no complete policy, or its name belongs to a built-in one.
    """
    fault = _fault(cls)
    if fault is None and cls.name in BUILTIN:
        fault = f"the name {cls.name!r} belongs to a built-in policy; choose another"
    if fault is not None:
        raise PolicyError(f"{getattr(cls, '__name__', cls)!r} cannot be registered: {fault}.")
    _registered[cls.name] = cls
    return cls


def unregister(name: str) -> None:
    """Forget a class given to `register`; unknown names are ignored."""
    _registered.pop(name, None)


def parse(spec: str) -> tuple[str, str | None, dict[str, Any]]:
    """Split a line of text into name, preset and options; nothing is looked up or evaluated.

    Raises:
        PolicyError: the text is not of the form `name:preset(key=value, ...)`.
    """
    if len(spec) > _LONGEST:
        raise PolicyError(
            f"The policy {brief(spec)} has {len(spec):,} characters; at most {_LONGEST:,} are read."
        )
    match = re.fullmatch(r"\s*([\w-]+)\s*(?::\s*([\w-]+)\s*)?(\(.*\))?\s*", spec, re.DOTALL)
    if match is None:
        raise PolicyError(
            f"Cannot read the policy {brief(spec)}; write name, name:preset or name(key=value, ...)."
        )
    name, preset, brackets = match.groups()
    return name, preset, _options(spec, brackets) if brackets else {}


def _options(spec: str, brackets: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"policy{brackets}", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise PolicyError(
            f"Cannot read the options of {brief(spec)}; write key=value pairs with commas between them."
        ) from error
    if (
        not isinstance(call, ast.Call)
        or not isinstance(call.func, ast.Name)
        or call.args
        or any(keyword.arg is None for keyword in call.keywords)
    ):
        raise PolicyError(
            f"The options of {brief(spec)} must be key=value pairs with commas between."
        )
    options: dict[str, Any] = {}
    for keyword in call.keywords:
        key = keyword.arg or ""
        try:
            if isinstance(keyword.value, ast.Name | ast.Call):
                options[key] = ast.unparse(keyword.value)
            else:
                options[key] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise PolicyError(
                f"The value of {key!r} in {brief(spec)} must be a plain number, text, True, False, "
                "None or a tuple of these."
            ) from error
    return options


def _build(name: str, preset: str | None, values: Mapping[str, Any]) -> Policy:
    cls = policy_class(name)
    infos = {f.name: f for f in describe(cls)}
    for key in values:
        if key not in infos:
            raise PolicyError(
                f"Policy {cls.name!r} has no field {brief(key)}; {nearest(key, infos)}"
            )
    missing = [f.name for f in infos.values() if f.required and f.name not in values]
    if missing:
        field = infos[missing[0]]
        raise PolicyError(f"Policy {cls.name!r} needs the field {field.name!r}: {field.takes}.")
    if preset is None:
        return cls(**values)
    key = preset.replace("-", "_")
    if key not in cls.presets:
        hint = nearest(key, cls.presets) if cls.presets else "it has none."
        raise PolicyError(f"Policy {cls.name!r} has no preset {brief(preset)}; {hint}")
    return getattr(cls, key)(**values)


def _example(spec: str, cls: type[Policy]) -> Policy | type[Policy]:
    """The policy that is asked for, off which the engine would read what it says; the class where a field is missing.

    Raises:
        PolicyError: as for `get`, where more than a name is given.
    """
    if set(spec) & set(":("):
        return get(spec)
    if any(field.required for field in describe(cls)):
        return cls
    try:
        return cls()
    except Exception:  # whatever the construction of a foreign class may raise: a listing is not the place to say so
        return cls


def _restore(value: Any) -> Any:
    """Nested policies of a manifest become policies again."""
    if isinstance(value, Mapping) and "policy" in value:
        return from_config(cast("Mapping[str, Any]", value))
    if isinstance(value, list | tuple):
        return tuple(_restore(v) for v in cast("tuple[Any, ...]", value))
    return value


def _plugin_fault(name: str, cls: Any) -> str | None:
    """Why what an entry point names is no policy of that name, or None."""
    fault = _fault(cls)
    if fault is None and cls.name != name:
        fault = f"its class is named {cls.name!r}; both names must be the same"
    return fault


def _fault(cls: Any) -> str | None:
    """Why an object is no complete policy class, or None."""
    if not (isinstance(cls, type) and issubclass(cls, Policy)):
        return "it is not a subclass of hermes_lab.policies.Policy"
    if not re.fullmatch(r"[A-Za-z_]\w*", cls.name):
        return "its class attribute 'name' must be a word of letters, digits and underscores"
    known = {f.name for f in dataclasses.fields(cls)}
    for key, annotation in vars(cls).get("__annotations__", {}).items():
        class_variable = get_origin(annotation) is ClassVar or "ClassVar" in str(annotation)
        if key not in known and not class_variable:
            return "it has fields of its own but lacks the decorator @dataclass(frozen=True)"
    return None


def _origin(cls: type[Policy]) -> str:
    if _registered.get(cls.name) is cls:
        return "registered"
    if cls.name in BUILTIN:
        return "built-in"
    return _plugins.package(cls.name)


_plugins = Plugins(GROUP, "policy", BUILTIN, _plugin_fault)
