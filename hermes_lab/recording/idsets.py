"""Rows of token ids, written as what sets them apart from a pool that the reader knows already.

The tokens that a layer holds after a step are those it held before, and those that arrived, less a few: so a
row of ids is stored as (missing, extra, displaced), where `missing` are ids of the pool that are not in the
row, `extra` ids of the row that are not in the pool, and `displaced` the ids that stand before a smaller one
(a summary token put among older tokens) with the places where they stand. All else is in ascending order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief

IntArray = npt.NDArray[np.int64]

NONE: IntArray = np.empty(0, np.int64)
NONE.flags.writeable = False
LARGEST = int(np.iinfo(np.int32).max)

Packed = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
"""Many rows: counts [row, (missing, extra, displaced)], and all ids in that order with the places at the end."""


@dataclass(frozen=True, repr=False)
class RowDiff(Brief):
    """One row against its pool; see the module docstring."""

    missing: IntArray = field(default_factory=lambda: NONE)
    extra: IntArray = field(default_factory=lambda: NONE)
    displaced: IntArray = field(default_factory=lambda: NONE)
    places: IntArray = field(default_factory=lambda: NONE)


def ascending(ids: IntArray) -> bool:
    """Whether ids ascend strictly."""
    return bool((ids[1:] > ids[:-1]).all())


def union(first: IntArray, second: IntArray) -> IntArray:
    """Sorted union of two rows; cheap where the second follows the first, as arriving tokens do."""
    if not len(second):
        joined = first
    elif not len(first):
        joined = second
    else:
        joined = np.concatenate([first, second])
    return joined if ascending(joined) else np.unique(joined)


def decode_row(diff: RowDiff, pool: IntArray) -> IntArray:
    """The row that was described, in its order; `pool` must be the same."""
    row = pool
    if len(diff.missing):
        held = np.ones(len(pool), np.bool_)
        held[np.searchsorted(pool, diff.missing)] = False
        row = pool[held]
    if len(diff.extra):
        row = np.sort(np.concatenate([row, diff.extra]))
    return reorder(row, diff)


def reorder(row: IntArray, diff: RowDiff) -> IntArray:
    """Put the displaced ids of a sorted row back to where they stood."""
    if not len(diff.displaced):
        return row
    stays = np.ones(len(row), np.bool_)
    stays[np.searchsorted(row, diff.displaced)] = False
    settled = np.ones(len(row), np.bool_)
    settled[diff.places] = False
    ordered = np.empty_like(row)
    ordered[diff.places] = diff.displaced
    ordered[settled] = row[stays]
    return ordered


class PackedRows:
    """Reads single rows out of `Packed`.

    Raises:
        ValueError: counts and ids contradict each other.
    """

    def __init__(self, counts: npt.NDArray[np.int32], ids: npt.NDArray[np.int32]) -> None:
        self.counts = counts.reshape(-1, 3)
        self._ids = ids.astype(np.int64)
        displaced_twice = self.counts[:, [0, 1, 2, 2]].astype(np.int64)
        self._edges: list[int] = np.cumsum([0, *displaced_twice.ravel().tolist()]).tolist()
        if self._edges[-1] != len(ids):
            raise ValueError(f"rows of ids claim {self._edges[-1]} numbers and have {len(ids)}")

    def __getitem__(self, index: int) -> RowDiff:
        start, extra, displaced, places, end = self._edges[4 * index : 4 * index + 5]
        return RowDiff(
            self._ids[start:extra],
            self._ids[extra:displaced],
            self._ids[displaced:places],
            self._ids[places:end],
        )
