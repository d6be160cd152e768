"""What every token of a stream is, under one global id.

A session gives each token that enters a KV cache a global id, once. Caches, decisions, recordings and
figures speak of tokens by that id only, and look up here what the token was: its role, the frame it came
from and the cell of the frame's grid. Ids are never reused, so they stay valid after eviction.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes_lab.errors import LabError


class Role(IntEnum):
    """What a token stands for."""

    SYSTEM = 0  # system prompt and whatever precedes the first frame; never evicted
    VISUAL = 1  # a patch (or merged patches) of a frame
    MARKER = 2  # text between frames that the model's template demands (timestamps, separators)
    SUMMARY = 3  # synthesised by a policy's merge step from evicted tokens
    TEXT = 4  # questions, answers and any other text that was kept in the stream


COLUMNS: dict[str, type[np.generic]] = {
    "role": np.int8,
    "frame": np.int32,  # 0-based index in the sampled stream; -1 where the token has no frame
    "time_s": np.float32,  # presentation time of that frame; NaN where the token has no frame
    "row": np.int16,  # cell of the frame's token grid; -1 where the token has none
    "col": np.int16,
    "step": np.int32,  # the feed step at which the token entered the cache
}


class TokenTable:
    """Append-only columns, one row a token; the row number is the token's global id."""

    def __init__(self) -> None:
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: np.empty(0, dtype) for name, dtype in COLUMNS.items()
        }
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(
        self,
        count: int,
        *,
        role: int | npt.ArrayLike,
        frame: int | npt.ArrayLike = -1,
        time_s: float | npt.ArrayLike = np.nan,
        row: int | npt.ArrayLike = -1,
        col: int | npt.ArrayLike = -1,
        step: int = -1,
    ) -> npt.NDArray[np.int64]:
        """Add `count` tokens; scalars are repeated. Returns their global ids, int64 [count]."""
        start, end = self._length, self._length + count
        values: Mapping[str, Any] = {
            "role": role, "frame": frame, "time_s": time_s, "row": row, "col": col, "step": step,
        }  # fmt: skip
        for name, value in values.items():
            column = self._columns[name]
            if end > len(column):  # grow geometrically: a stream appends for hours
                grown = np.empty(max(end, 2 * len(column), 1024), column.dtype)
                grown[:start] = column[:start]
                self._columns[name] = column = grown
            column[start:end] = value
        self._length = end
        return np.arange(start, end)

    def truncate(self, length: int) -> None:
        """Forget the newest tokens, when the step that added them is undone."""
        self._length = min(self._length, length)

    def column(self, name: str) -> npt.NDArray[Any]:
        """A read-only view of one column, [tokens]."""
        view = self._columns[name][: self._length]
        view.flags.writeable = False
        return view

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of all columns, for recordings."""
        return {name: self.column(name).copy() for name in COLUMNS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> TokenTable:
        """Rebuild a table from `arrays()`.

        Raises:
            LabError: a column is missing or the columns differ in length.
        """
        missing = [name for name in COLUMNS if name not in arrays]
        if missing:
            raise LabError(
                f"The token table lacks its column {missing[0]!r}; the recording is incomplete."
            )
        lengths = {len(arrays[name]) for name in COLUMNS}
        if len(lengths) != 1:
            raise LabError(
                "The columns of the token table differ in length; the recording is damaged."
            )
        table = cls()
        table._length = lengths.pop()
        table._columns = {
            name: np.array(arrays[name], dtype=dtype) for name, dtype in COLUMNS.items()
        }
        return table

    def copy(self) -> TokenTable:
        """An independent copy, for a forked session."""
        return TokenTable.from_arrays(self.arrays())
