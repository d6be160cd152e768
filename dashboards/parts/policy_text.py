"""A policy's description as one line of text, the way the command line takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def spec_of(config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> str:
    """Name and fields of `Policy.config()`; fields that have their default are left out where it is known."""
    values = {k: _plain(v) for k, v in config.items() if k != "policy"}
    known = {k: _plain(v) for k, v in (defaults or {}).items()}
    changed = [f"{k}={_written(v)}" for k, v in values.items() if k not in known or known[k] != v]
    name = str(config.get("policy", "unknown"))
    return f"{name}({', '.join(changed)})" if changed else name


def full_spec(config: Mapping[str, Any]) -> str:
    """The text without fields that have their default; imports the policies, which takes torch."""
    from hermes_lab import policies

    name = str(config["policy"])
    return spec_of(config, {f.name: f.default for f in policies.info(name).fields})


def short_spec(config: Mapping[str, Any]) -> str:
    """Name and budget only, for a recording's headline; imports nothing."""
    return spec_of(
        {k: v for k, v in config.items() if k in ("policy", "budget_tokens") and v is not None}
    )


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(v) for v in value)
    return value


def _written(value: Any) -> str:
    if isinstance(value, Mapping) and "policy" in value:
        return spec_of(value)
    if isinstance(value, tuple):
        inside = ", ".join(_written(v) for v in value)
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(value)
