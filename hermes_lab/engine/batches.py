"""Tensors that can be stacked: one operation for all of them, and on a GPU one wait instead of one per layer."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


def batches(keys: Iterable[Hashable]) -> list[list[int]]:
    """Indices (of layers, say) grouped by equal keys; groups by first appearance, ascending inside."""
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    return list(groups.values())
