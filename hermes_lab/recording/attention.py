"""Reduced attention as arrays of a part, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hermes_lab.frozen import Frozen
from hermes_lab.recording.format import Level
from hermes_lab.recording.parts import Array, Part
from hermes_lab.snapshot import AttentionSummary

_BY_HEAD = ("entropy", "sink_share", "age_s")
_NO_ROWS: Mapping[int, Any] = Frozen({})


@dataclass(frozen=True)
class RowFilter:
    """Which full attention rows are recorded at level "rows"; None: all that the engine captured.

    Attributes:
        layers: indices of decoder layers.
        groups: names of `AttentionSummary.group`; "guidance" stands for every guidance prompt.
    """

    layers: tuple[int, ...] | None = None
    groups: tuple[str, ...] | None = None

    def wants(self, group: str, layer: int) -> bool:
        """Whether the rows of a group of queries in a layer are recorded."""
        named = self.groups is None or group in self.groups or group.split(":")[0] in self.groups
        return named and (self.layers is None or layer in self.layers)


def reduce_rows(summary: AttentionSummary, level: Level, rows: RowFilter) -> AttentionSummary:
    """The summary with the rows that a recording of this level keeps."""
    kept = {n for n in summary.rows if level == "rows" and rows.wants(summary.group, n)}
    if kept == set(summary.rows) == set(summary.row_ids):
        return summary
    return replace(
        summary,
        rows=Frozen({n: summary.rows[n] for n in summary.rows if n in kept}),
        row_ids=Frozen({n: summary.row_ids[n] for n in summary.row_ids if n in kept}),
    )


def encode_attention(
    summaries: Sequence[AttentionSummary],
) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """JSON records and arrays of some summaries; frames that a layer does not attend to (evicted ones, or of a group
    that it did not read) take no space.

    Raises:
        ValueError: arrays of a summary contradict each other.
    """
    records: list[dict[str, Any]] = []
    tensors: dict[str, Array] = {}
    for number, summary in enumerate(summaries):
        name = f"attention.{number}."
        mass = np.ascontiguousarray(summary.frame_mass, np.float32)
        seen = mass.view(np.int32).any(axis=1)
        by_head = [np.asarray(getattr(summary, plain), np.float32) for plain in _BY_HEAD]
        tensors[name + "frames"] = np.packbits(seen)
        tensors[name + "frame_mass"] = mass.transpose(0, 2, 1)[seen]
        tensors[name + "by_head"] = np.concatenate(
            [np.asarray(summary.role_mass, np.float32), np.stack(by_head, -1)], -1
        )
        for layer, row in summary.rows.items():
            tensors[f"{name}rows.{layer}"] = np.asarray(row, np.float32)
        for layer, ids in summary.row_ids.items():
            tensors[f"{name}row_ids.{layer}"] = np.asarray(ids, np.int32)
        records.append(
            {
                "group": summary.group,
                "shape": mass.shape,
                "visible": summary.visible.tolist(),
                "rows": list(summary.rows),
                "row_ids": list(summary.row_ids),
            }
        )
    return records, tensors


def decode_attention(
    records: Sequence[Mapping[str, Any]], part: Part
) -> tuple[AttentionSummary, ...]:
    """Read what `encode_attention` wrote, now or in format 1."""
    return tuple(_decode(number, record, part) for number, record in enumerate(records))


def _decode(number: int, record: Mapping[str, Any], part: Part) -> AttentionSummary:
    name = f"attention.{number}."
    read = _read if "shape" in record else _read_first_format
    rows = part.read(*(f"{name}rows.{layer}" for layer in record["rows"]))
    ids = part.read(*(f"{name}row_ids.{layer}" for layer in record["row_ids"]))
    return AttentionSummary(
        group=record["group"],
        **read(name, record, part),
        rows=Frozen(dict(zip(record["rows"], rows, strict=True))) if rows else _NO_ROWS,
        row_ids=Frozen(
            {layer: i.astype(np.int64) for layer, i in zip(record["row_ids"], ids, strict=True)}
        ),
    )


def _read(name: str, record: Mapping[str, Any], part: Part) -> dict[str, Any]:
    bits, mass, by_head = part.read(*(name + n for n in ("frames", "frame_mass", "by_head")))
    layers, heads, frames = record["shape"]
    seen = np.unpackbits(bits, count=layers * frames).astype(np.bool_).reshape(layers, frames)
    full = np.zeros((layers, frames, heads), np.float32)
    full[seen] = mass
    roles = by_head.shape[-1] - len(_BY_HEAD)
    return {
        "frame_mass": np.ascontiguousarray(full.transpose(0, 2, 1)),
        "role_mass": by_head[..., :roles].copy(),
        "visible": np.array(record["visible"], np.int64),
        **{plain: by_head[..., roles + n].copy() for n, plain in enumerate(_BY_HEAD)},
    }


def _read_first_format(name: str, record: Mapping[str, Any], part: Part) -> dict[str, Any]:
    names = ("role_mass", "visible", *_BY_HEAD)
    seen, mass, *plain = part.read(*(name + n for n in ("frames", "frame_mass", *names)))
    full = np.zeros((*mass.shape[:-1], record["frames"]), np.float32)
    full[..., seen] = mass
    return {"frame_mass": full, **dict(zip(names, plain, strict=True))}
