"""Many rows of token ids against their pools at once: a step costs operations, not arithmetic.

Every id becomes a number that sorts by row and then by id (its key), and a table over all keys says where in
the pools one stands. Masks become indices before they are used: on masks without a pattern that is faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hermes_lab.recording.idsets import LARGEST, NONE, IntArray, Packed, ascending

_MOST_KEYS = 1 << 20  # a table of 4 MB, and a few arrays twice as large beside it


@dataclass(frozen=True)
class Match:
    """Rows against their pools; a key is `row << bits | id - lowest`.

    Attributes:
        rows: how many.
        keys: of the tokens of the rows, in their order, [token].
        pool: of the tokens of the pools, ascending, [candidate].
    """

    rows: int
    bits: int
    lowest: int
    keys: IntArray
    pool: IntArray

    @cached_property
    def row(self) -> IntArray:
        """Row of every token, [token]."""
        return self.keys >> self.bits

    @cached_property
    def found(self) -> npt.NDArray[np.integer]:
        """Where in `pool` every token stands, -1 where nowhere, [token]."""
        table = np.empty(self.rows << self.bits, np.int32)  # what nobody wrote proves wrong below
        table[self.pool] = np.arange(len(self.pool), dtype=np.int32)
        found = table.take(self.keys)
        if not len(self.pool):
            return np.full(len(found), -1)
        return np.where(self.pool.take(found, mode="clip") == self.keys, found, -1)

    def pack(self) -> Packed:
        """The rows as `PackedRows` reads them.

        Raises:
            ValueError: an id stands twice in a row.
        """
        in_order = ascending(self.keys)
        if in_order and np.array_equal(self.keys, self.pool):
            return np.zeros((self.rows, 3), np.int32), np.empty(0, np.int32)
        left = np.ones(len(self.pool) + 1, np.bool_)
        left[self.found] = False
        missing = self.pool.take(np.flatnonzero(left[:-1]))
        extra = self.keys.take(np.flatnonzero(self.found < 0))
        where = NONE
        if not in_order:
            if not ascending(np.sort(self.keys)):
                raise ValueError("a token id stands twice in one row")
            least_after = np.minimum.accumulate(self.keys[::-1])[::-1][1:]
            where = np.flatnonzero(self.keys[:-1] > least_after)
        keys = np.concatenate([missing, extra, self.keys[where], self.keys[where]])
        row = keys >> self.bits
        ids = keys - (row << self.bits) + self.lowest
        if len(where):
            ids[-len(where) :] = where - np.searchsorted(self.row, row[-len(where) :])
        kind = np.repeat(np.arange(4), [len(missing), len(extra), len(where), len(where)])
        group = 4 * row + kind
        counts = np.bincount(group, minlength=4 * self.rows).reshape(-1, 4)[:, :3]
        return counts.astype(np.int32), ids[np.argsort(group, kind="stable")].astype(np.int32)


@dataclass(frozen=True)
class Block:
    """Consecutive rows that are worked on together.

    Attributes:
        where: these rows among all.
        lengths: tokens of each row.
        match: rows against what they held before and what arrived.
        source: where the tokens of the pools stand in the ids before and the new ids, row after row,
            [candidate]; None: in this order.
    """

    where: slice
    lengths: Sequence[int]
    match: Match
    source: IntArray | None


def blocks(
    rows: Sequence[IntArray], before: Sequence[IntArray], new_ids: IntArray, kinds: Sequence[int]
) -> Iterator[Block]:
    """Rows beside what each held before, in blocks that bound the memory taken; `kinds` are not mixed in one.

    Raises:
        ValueError: an id is negative or does not fit int32.
    """
    edges = [i for i in range(1, len(rows)) if kinds[i] != kinds[i - 1]]
    for start, end in zip([0, *edges], [*edges, len(rows)], strict=True):
        if end > start:
            yield from _halved(rows, before, new_ids, slice(start, end))


def _halved(
    rows: Sequence[IntArray], before: Sequence[IntArray], new_ids: IntArray, where: slice
) -> Iterator[Block]:
    """One block, or the blocks of either half where one would be too large."""
    count = where.stop - where.start
    lengths = [len(row) for row in rows[where]]
    pool_lengths = [len(row) + len(new_ids) for row in before[where]]
    small = count == 1 or sum(lengths) + sum(pool_lengths) <= _MOST_KEYS
    block = _block(rows, before, new_ids, where, lengths, pool_lengths) if small else None
    if block is not None:
        yield block
        return
    middle = where.start + count // 2
    yield from _halved(rows, before, new_ids, slice(where.start, middle))
    yield from _halved(rows, before, new_ids, slice(middle, where.stop))


def _block(
    rows: Sequence[IntArray],
    before: Sequence[IntArray],
    new_ids: IntArray,
    where: slice,
    lengths: Sequence[int],
    pool_lengths: Sequence[int],
) -> Block | None:
    """A block, or None where its ids lie too far apart for a table of all its rows."""
    count = len(lengths)
    ids = np.concatenate(rows[where])
    pool = np.concatenate([piece for row in before[where] for piece in (row, new_ids)])
    spans = [(int(a.min()), int(a.max())) for a in (ids, pool) if len(a)] or [(0, 0)]
    lowest, highest = min(low for low, _ in spans), max(high for _, high in spans)
    if lowest < 0 or highest > LARGEST:
        raise ValueError(f"token ids must lie in 0 ... {LARGEST}, got {lowest} ... {highest}")
    bits = (highest - lowest).bit_length()
    if count > 1 and count << bits > _MOST_KEYS:
        return None
    first = (np.arange(count) << bits) - lowest
    keys = ids + np.repeat(first, lengths)
    pool = pool + np.repeat(first, pool_lengths)
    source = None
    if not ascending(pool):
        pool, source = np.unique(pool, return_index=True)
    return Block(where, lengths, Match(count, bits, lowest, keys, pool), source)


def join(packed: Sequence[Packed]) -> Packed:
    """Packed rows of several blocks as one."""
    counts = [np.empty((0, 3), np.int32), *(counts for counts, _ in packed)]
    ids = [np.empty(0, np.int32), *(ids for _, ids in packed)]
    return np.concatenate(counts), np.concatenate(ids)
