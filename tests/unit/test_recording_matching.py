"""Rows that are encoded together come back one by one, however they were cut into blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_lab.recording import matching
from hermes_lab.recording.idsets import LARGEST, Packed, PackedRows, decode_row, union
from hermes_lab.recording.state import CacheState, encode_state
from tests.recording_streams import Stream

Rows = list[np.ndarray[Any, np.dtype[np.int64]]]


@st.composite
def rows_and_pools(draw: st.DrawFn) -> tuple[Rows, Rows, np.ndarray]:
    """Rows, what each held before, and new ids: alike or ragged, in order or not, some new ids held before."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(0, 7))
    base = draw(st.sampled_from([0, 5000, LARGEST - 60]))
    new = base + rng.permutation(60)[: draw(st.integers(0, 8))]
    if draw(st.booleans()):
        new = np.sort(new)
    sizes = rng.integers(0, 40, (count, 2))
    if draw(st.booleans()):
        sizes[:] = draw(st.tuples(st.integers(0, 40), st.integers(0, 40)))
    rows = [base + rng.permutation(60)[:size] for size in sizes[:, 0]]
    before = [base + rng.permutation(60)[:size] for size in sizes[:, 1]]
    if draw(st.booleans()):
        before = [np.sort(row) for row in before]
    if draw(st.booleans()):
        rows = [np.sort(row) for row in rows]
    if draw(st.booleans()):
        rows = [row if n % 2 else union(before[n], new) for n, row in enumerate(rows)]
    return rows, before, new


def encode(rows: Rows, before: Rows, new: np.ndarray) -> Packed:
    """What a part would hold of these rows."""
    found = matching.blocks(rows, before, new, [0] * len(rows))
    return matching.join([block.match.pack() for block in found])


@settings(max_examples=300, deadline=None)
@given(rows_and_pools(), st.sampled_from([1, 100, 400, 1 << 20]))
def test_rows_encoded_together_are_decoded_one_by_one(
    case: tuple[Rows, Rows, np.ndarray], most_keys: int
) -> None:
    rows, before, new = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matching, "_MOST_KEYS", most_keys)
        counts, ids = encode(rows, before, new)
    assert (counts.dtype, ids.dtype) == (np.int32, np.int32)
    packed = PackedRows(counts, ids)
    for number, row in enumerate(rows):
        pool = np.union1d(before[number], new)
        diff = packed[number]
        assert diff.missing.tolist() == np.setdiff1d(pool, row).tolist()
        assert diff.extra.tolist() == [i for i in row.tolist() if i not in pool]
        late = [n for n in range(len(row)) if (row[n + 1 :] < row[n]).any()]
        assert (diff.places.tolist(), diff.displaced.tolist()) == (late, row[late].tolist())
        assert decode_row(diff, pool).tolist() == row.tolist()


@pytest.mark.parametrize("most_keys", [1, 200])
@pytest.mark.parametrize(
    "stream",
    [Stream(), Stream(heads=2, axes=3, summarise="sorted"), Stream(heads=3, renumber=True)],
    ids=["shared", "per head, three axes", "renumbered"],
)
def test_how_rows_are_cut_into_blocks_does_not_show(
    stream: Stream, most_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do positions of layers with other axes than the layer before them."""
    other = Stream(heads=stream.heads, axes=4 - stream.axes, renumber=stream.renumber)
    before = CacheState()
    for (one, _), (two, _) in zip(stream.play(6), other.play(6), strict=True):
        after = CacheState(one.held + two.held, one.positions + two.positions)
        together = encode_state(before, after, one.new_ids)
        with monkeypatch.context() as patch:
            patch.setattr(matching, "_MOST_KEYS", most_keys)
            apart = encode_state(before, after, one.new_ids)
        assert together[0] == apart[0]
        assert {n: (a.dtype, a.tolist()) for n, a in together[1].items()} == {
            n: (a.dtype, a.tolist()) for n, a in apart[1].items()
        }
        before = after


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([3, 4, 3], "a token id stands twice in one row"),
        ([9, 9], "a token id stands twice in one row"),
        ([-1, 2], r"token ids must lie in 0 \.\.\. 2147483647, got -1 \.\.\. 5"),
        ([2**31], r"token ids must lie in 0 \.\.\. 2147483647, got 0 \.\.\. 2147483648"),
    ],
)
def test_what_is_no_row_of_ids_is_refused(row: list[int], message: str) -> None:
    rows = [np.array([0, 1, 5]), np.array(row)]
    with pytest.raises(ValueError, match=message):
        encode(rows, [np.arange(3), np.arange(4)], np.array([4, 5]))
