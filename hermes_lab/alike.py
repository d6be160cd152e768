"""Layers that can be worked on together: a decision costs operations, not arithmetic, on small models."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


def alike(keys: Iterable[Hashable]) -> list[list[int]]:
    """Indices (of layers, say) grouped by equal keys; groups by first appearance, ascending inside."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())
