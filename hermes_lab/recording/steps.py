"""A snapshot as the content of a step part, and back.

Arrays of a step part: `new_ids`; `arrived_at`, `evicted`, `added`, `added_at`, `displaced`, `moved_to` (what changed,
see `changes`) or `after.*` (the whole state instead), `before.*` where the step starts with a checkpoint;
`scores`, `candidates`, `kept`, `spared`, `sources` (see `decisions`); `attention.N.*` (see `attention`); `tokens.*`:
rows of the token table that appeared since the part before. Parts of format 1 are read by `first_format`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hermes_lab.recording import changes, first_format
from hermes_lab.recording.attention import decode_attention, encode_attention
from hermes_lab.recording.changes import StepChanges
from hermes_lab.recording.decisions import decode_decisions, encode_decisions
from hermes_lab.recording.first_format import StepDiff
from hermes_lab.recording.multiples import Multiples
from hermes_lab.recording.parts import Array, Part
from hermes_lab.recording.standing import Standing
from hermes_lab.recording.state import CacheState, Shapes, encode_state
from hermes_lab.snapshot import LayerDecision, Snapshot, Timings
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


def encode_step(
    snapshot: Snapshot, shapes: Shapes | None, before: Standing, multiples: Multiples
) -> tuple[dict[str, Any], dict[str, Array]]:
    """JSON record and arrays of one step.

    Args:
        shapes: of the state after the step, where its changes are written; None: the whole state is.
        before: the state before the step.

    Raises:
        ValueError: arrays of the snapshot contradict each other.
    """
    told = None if shapes is None else snapshot.changes
    change: dict[str, Any] | None = None
    if told is None:
        shapes, tensors = encode_state(CacheState(snapshot.held, snapshot.positions), "after")
    else:
        change, tensors = changes.encode_changes(told, before)
    decisions, decision_tensors = encode_decisions(
        snapshot.decisions, told, before, snapshot.new_ids, multiples
    )
    summaries, attention_tensors = encode_attention(snapshot.attention)
    record: dict[str, Any] = {name: getattr(snapshot, name) for name in _SCALARS}
    record |= {
        "timings": asdict(snapshot.timings),
        "state": shapes,
        "change": change,
        "attention": summaries,
        **decisions,
    }
    tensors["new_ids"] = snapshot.new_ids.astype(np.int32)
    return record, tensors | decision_tensors | attention_tensors


Diff = StepChanges | StepDiff


def read_diff(part: Part, *, positions: bool = True) -> Diff:
    """What changed in one step; of format 1 without positions, if nobody wants them.

    Raises:
        ValueError: arrays contradict the record.
    """
    if "change" in part.record:
        return StepChanges.read(part.record, part)
    return StepDiff.read(part.record["state"], part, positions=positions)


def follow(state: CacheState, diffs: Sequence[Diff], *, positions: bool = True) -> CacheState:
    """The state after some steps, from the state before the first of them."""
    old = [diff for diff in diffs if isinstance(diff, StepDiff)]
    new = [diff for diff in diffs if isinstance(diff, StepChanges)]
    if old:
        state = first_format.follow(state, old, positions=positions)
    return changes.follow(state, new, positions=positions) if new else state


def read_decisions(
    part: Part, diff: Diff, before: CacheState, layers: frozenset[int] | None = None
) -> tuple[LayerDecision, ...]:
    """The decisions of one step, of some layers or of all; `before` is the state before it."""
    if isinstance(diff, StepChanges):
        return decode_decisions(part, diff, before, layers)
    records = part.record["decisions"]
    return first_format.decode_decisions(records, part, before, diff.new_ids, layers)


def decode_step(part: Part, diff: Diff, before: CacheState, after: CacheState) -> Snapshot:
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
        decisions=read_decisions(part, diff, before),
        attention=decode_attention(record["attention"], part),
        timings=Timings(**record["timings"]),
        changes=diff.told(after) if isinstance(diff, StepChanges) else (),
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
