"""Numbers of every step side by side, as curves over the stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief
from hermes_lab.recording.parts import Part
from hermes_lab.snapshot import Timings

IntArray = npt.NDArray[np.int64]
SecondsArray = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Timeline(Brief):
    """One entry a step.

    Attributes:
        step: `Snapshot.step`.
        time_s, frames_seen, tokens_seen, cache_bytes, archive_bytes: as in `Snapshot`, [step].
        held_tokens: tokens that each layer held, per head, [step, layer].
        timings: the fields of `Timings` by name, [step].
    """

    step: IntArray
    time_s: SecondsArray
    frames_seen: IntArray
    tokens_seen: IntArray
    cache_bytes: IntArray
    archive_bytes: IntArray
    held_tokens: IntArray
    timings: Mapping[str, SecondsArray]

    @classmethod
    def read(cls, parts: Sequence[Part]) -> Timeline:
        """Collect from the headers of step parts, which are in memory already."""
        records = [part.record for part in parts]
        layers = len(records[0]["state"]["tokens"]) if records else 0

        def integers(name: str) -> IntArray:
            return np.array([record[name] for record in records], np.int64)

        return cls(
            step=integers("step"),
            time_s=np.array([record["time_s"] for record in records], np.float64),
            frames_seen=integers("frames_seen"),
            tokens_seen=integers("tokens_seen"),
            cache_bytes=integers("cache_bytes"),
            archive_bytes=integers("archive_bytes"),
            held_tokens=np.array(
                [record["state"]["tokens"] for record in records], np.int64
            ).reshape(len(records), layers),
            timings={
                f.name: np.array([record["timings"][f.name] for record in records], np.float64)
                for f in fields(Timings)
            },
        )
