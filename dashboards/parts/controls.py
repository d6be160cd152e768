"""Widgets made from descriptions: a policy's fields, the model, and the source of a stream."""

from __future__ import annotations

import ast
import os
import re
import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import streamlit as st

from dashboards.parts import keys
from dashboards.parts.page_parts import refuse
from dashboards.parts.plain_text import printable
from dashboards.parts.state import lasting
from hermes_lab import policies
from hermes_lab.errors import LabError, ModelError
from hermes_lab.policies import FieldInfo, Policy

MODELS_VARIABLE = "HERMES_LAB_MODELS"
DEFAULT_POLICY = "hermes"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIMPLE = (int, float)


def model_choices() -> dict[str, str]:
    """Models by the name they are shown under: shipped ones, and the folders that the environment allows."""
    from hermes_lab.pocket import names

    found = {name: name for name in names()}
    for folder in filter(None, os.environ.get(MODELS_VARIABLE, "").split(os.pathsep)):
        found[printable(Path(folder).name)] = str(Path(folder).resolve())
    return found


def model_named(name: str) -> str:
    """What to load for a name from the page; paths that were not allowed are refused.

    Raises:
        ModelError: neither offered nor a hub id.
    """
    offered = model_choices()
    if name in offered:
        return offered[name]
    if _HUB_ID.fullmatch(name) and not Path(name).exists():
        return name
    raise ModelError(
        f"{name!r} is not offered here; choose a listed model or a hub id such as "
        f"llava-hf/llava-onevision-qwen2-7b-ov-hf, or list its folder in {MODELS_VARIABLE}."
    )


def model_picker(key: str, current: str) -> str:
    """Choose a model by name; loads nothing."""
    offered = list(model_choices())
    lasting(key, current if current else (offered[0] if offered else "pocket"))
    options = list(dict.fromkeys([*offered, st.session_state[key]]))
    return st.selectbox(
        "Model",
        options,
        key=key,
        accept_new_options=True,
        help="A shipped model, or the hub id of one that is already in the local Hugging Face cache. "
        "It is loaded when you press start.",
    )


def policy_picker(
    key: str, current: str, budget: int | None = None, columns: int = 1
) -> tuple[Policy | None, str]:
    """Choose a policy and its fields; the policy (None where a field refuses its value), and its name.

    Args:
        current: a policy in one line of text, used on the first run.
        budget: fixes `budget_tokens`, and hides its control.
    """
    name, preset, options = _parsed(current)
    available = [n for n in policies.names() if not policies.info(n).evaluation_only]
    lasting(keys.policy_name(key), name if name in available else DEFAULT_POLICY)
    chosen = st.selectbox(
        "Policy",
        available,
        key=keys.policy_name(key),
        format_func=lambda n: f"{n}: {policies.info(n).title}",
    )
    info = policies.info(chosen)
    preset = preset if chosen == name else None
    if info.presets:
        lasting(keys.policy_preset(key, chosen), preset or info.presets[0])
        preset = st.segmented_control(
            "Preset",
            info.presets,
            key=keys.policy_preset(key, chosen),
            help="Named settings of the fields below.",
        )
    base = _defaults(chosen, preset, options if chosen == name else {})
    values: dict[str, Any] = {}
    problem: str | None = None
    fields = [f for f in info.fields if f.name != "budget_tokens"]
    try:
        for field in info.fields:
            if field.name == "budget_tokens":
                values["budget_tokens"] = (
                    budget
                    if budget is not None
                    else _budget(key, base.get("budget_tokens"), field.doc)
                )
        with st.expander(f"Fields of {chosen} ({len(fields)})"):
            st.caption(f"{info.doc} Source: {info.source or 'none'}.")
            grid = st.columns(columns)
            for n, field in enumerate(fields):
                with grid[n % columns]:
                    values[field.name] = control(
                        field,
                        keys.policy_field(key, chosen, preset, field.name),
                        base.get(field.name),
                    )
        return policies.from_config({"policy": chosen, **values}), chosen
    except LabError as error:
        problem = str(error)
    refuse(problem)
    return None, chosen


def _budget(key: str, current: int | None, doc: str) -> int | None:
    """Tokens per layer; empty where the session is to settle it (see `hermes_lab.stream.default_budget`)."""
    lasting(keys.policy_budget(key), current)
    value = st.number_input(
        "Budget: video tokens per layer",
        min_value=1,
        value=None,
        step=16,
        key=keys.policy_budget(key),
        placeholder="by default",
        help=doc,
    )
    return value


def control(field: FieldInfo, key: str, value: Any) -> Any:
    """One widget for one field, by its annotation; odd types are written as Python literals."""
    kinds = _alternatives(field.annotation)
    optional = type(None) in kinds
    plain = [k for k in kinds if k is not type(None)]
    label = field.name.replace("_", " ")
    if field.choices is not None and all(
        isinstance(c, str | int | float | bool | None) for c in field.choices
    ):
        lasting(key, value if value in field.choices else field.choices[0])
        return st.selectbox(label, field.choices, key=key, help=field.doc)
    if plain == [bool]:
        lasting(key, bool(value))
        return st.toggle(label, key=key, help=field.doc)
    if len(plain) == 1 and plain[0] in _SIMPLE:
        return _number(field, plain[0], key, label, value, optional)
    text = value if isinstance(value, str) else repr(value)
    lasting(key, text)
    written = st.text_input(label, key=key, help=f"{field.doc} Takes {field.takes}.")
    if plain == [str] and not (optional and written == "None"):
        return written
    try:
        return ast.literal_eval(written)
    except (ValueError, SyntaxError) as error:
        if str in plain or Any in plain:
            return written
        raise LabError(f"Field {field.name!r} takes {field.takes}, got {written!r}.") from error


def _number(
    field: FieldInfo,
    kind: type[int] | type[float],
    key: str,
    label: str,
    value: Any,
    optional: bool,
) -> int | float | None:
    low, high = field.minimum, field.maximum
    if (
        kind is float
        and low is not None
        and high is not None
        and not optional
        and value is not None
    ):
        lasting(key, float(value))
        return st.slider(
            label, float(low), float(high), key=key, help=field.doc, step=(high - low) / 100
        )
    lasting(key, None if value is None else kind(value))
    start = None if optional else "min"
    hint = "None" if optional else ""
    if kind is float:
        first, last = (None if limit is None else float(limit) for limit in (low, high))
        return st.number_input(
            label, first, last, start, 0.01, "%g", key=key, help=field.doc, placeholder=hint
        )
    first, last = (None if limit is None else int(limit) for limit in (low, high))
    return st.number_input(label, first, last, start, 1, key=key, help=field.doc, placeholder=hint)


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return list(get_args(annotation))
    return [annotation]


def _parsed(spec: str) -> tuple[str, str | None, dict[str, Any]]:
    """Name, preset and options of a policy's text; a text that cannot be read is the default policy."""
    from hermes_lab.policies import registry

    try:
        return registry.parse(spec or DEFAULT_POLICY)
    except LabError:
        return DEFAULT_POLICY, None, {}


def _defaults(name: str, preset: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Field values to start from: the class's own, a preset's, and those written in the URL."""
    info = policies.info(name)
    values = {f.name: f.default for f in info.fields}
    try:
        made = policies.get(f"{name}:{preset}" if preset in info.presets else name)
        values |= {f.name: getattr(made, f.name) for f in info.fields}
        known = {k: v for k, v in options.items() if k in values}
        values |= {k: getattr(policies.get(name, **known), k) for k in known}
    except LabError:
        pass  # a required field, or a bad value in the URL: the widgets show what there is
    return values
