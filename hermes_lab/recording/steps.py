"""A snapshot as the content of a step part, and back.

Arrays of a step part: `new_ids`; `held.*` and `positions.*` (differences, see `state`), `before.*` where the
step starts with a checkpoint; `candidates.*`, `kept`, `scores`, `sources` (see `decisions`);
`attention.N.*` (see `attention`); `tokens.*`: rows of the token table that appeared since the part before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hermes_lab.recording.attention import decode_attention, encode_attention
from hermes_lab.recording.decisions import decode_decisions, encode_decisions
from hermes_lab.recording.parts import Array, Part
from hermes_lab.recording.state import CacheState, StepDiff, encode_checkpoint, encode_state
from hermes_lab.snapshot import Snapshot, Timings
from hermes_lab.tokens import COLUMNS, Role, TokenTable

_SCALARS = (
    "step",
    "frames",
    "frames_seen",
    "tokens_seen",
    "time_s",
    "budget_tokens",
    "cache_bytes",
    "archive_bytes",
    "reindexed",
    "notes",
)
_TUPLES = ("frames", "budget_tokens", "reindexed", "notes")
_DIFFERENCES = ("held.ids", "positions.ids", "positions.values")


def encode_step(
    snapshot: Snapshot, before: CacheState, *, checkpoint: bool
) -> tuple[dict[str, Any], dict[str, Array]]:
    """JSON record and arrays of one step; `checkpoint` puts the whole state before the step beside them.

    Raises:
        ValueError: arrays of the snapshot contradict each other.
    """
    after = CacheState(snapshot.held, snapshot.positions)
    state, tensors = encode_state(before, after, snapshot.new_ids)
    decisions, decision_tensors = encode_decisions(snapshot.decisions, before, snapshot.new_ids)
    attention, attention_tensors = encode_attention(snapshot.attention)
    record: dict[str, Any] = {name: getattr(snapshot, name) for name in _SCALARS}
    record |= {
        "timings": asdict(snapshot.timings),
        "state": state,
        "decisions": decisions,
        "attention": attention,
    }
    if checkpoint:
        record["before"], before_tensors = encode_checkpoint(before)
        tensors |= before_tensors
    tensors["new_ids"] = snapshot.new_ids.astype(np.int32)
    return record, tensors | decision_tensors | attention_tensors


def difference_bytes(tensors: Mapping[str, Array]) -> int:
    """Bytes that the differences of a step take; what a checkpoint saves from reading."""
    return sum(tensors[name].nbytes for name in _DIFFERENCES if name in tensors)


def decode_step(part: Part, diff: StepDiff, before: CacheState, after: CacheState) -> Snapshot:
    """The snapshot that `encode_step` was given; `before` and `after` are the states around it."""
    record = part.record
    scalars = {name: record[name] for name in _SCALARS}
    for name in _TUPLES:
        scalars[name] = None if scalars[name] is None else tuple(scalars[name])
    return Snapshot(
        **scalars,
        new_ids=diff.new_ids,
        held=after.held,
        positions=after.positions,
        decisions=decode_decisions(record["decisions"], part, before, diff.new_ids),
        attention=decode_attention(record["attention"], part),
        timings=Timings(**record["timings"]),
    )


def encode_tokens(table: TokenTable, first: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """Rows of the token table from global id `first` on."""
    if len(table) == first:
        return {}, {}
    return {"tokens_from": first}, {
        f"tokens.{name}": table.column(name)[first:] for name in COLUMNS
    }


def read_tokens(parts: Sequence[Part], least: int, prefix: int) -> TokenTable:
    """The rows that `encode_tokens` spread over some parts; ids that no part describes are text without a place.

    Args:
        parts: that have rows, in the order of their ids.
        least: at least so many rows.
        prefix: so many of the first tokens are the system prompt's.
    """
    names = [f"tokens.{column}" for column in COLUMNS]
    found: list[tuple[int, list[Array]]] = []
    length = 0
    for part in parts:
        first, rows = int(part.record["tokens_from"]), part.read(*names)
        if first < length or (first > length and not part.sound()):
            raise ValueError(
                f"part {part.path.name} begins at token {first} where {length} are known"
            )
        found.append((first, rows))
        length = first + len(rows[0])
    columns = {name: np.full(max(length, least), blank) for name, blank in _UNKNOWN.items()}
    columns["role"][:prefix] = Role.SYSTEM
    for first, rows in found:
        for (name, dtype), row in zip(COLUMNS.items(), rows, strict=True):
            columns[name][first : first + len(row)] = row.astype(dtype, casting="same_kind")
    return TokenTable.from_arrays(columns)


_UNKNOWN: dict[str, Any] = {
    name: dtype(Role.TEXT if name == "role" else np.nan if name == "time_s" else -1)
    for name, dtype in COLUMNS.items()
}
