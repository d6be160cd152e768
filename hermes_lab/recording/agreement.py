"""How far two recordings of one stream agree on what to keep."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from hermes_lab.brief import Brief
from hermes_lab.errors import RecordingError
from hermes_lab.recording.format import Manifest
from hermes_lab.recording.reader import Recording
from hermes_lab.recording.state import CacheState, IntArray
from hermes_lab.tokens import Role, TokenTable


@dataclass(frozen=True, repr=False)
class Agreement(Brief):
    """Jaccard similarity (shared / either) of the kept visual tokens, per KV head and then over all heads.

    Attributes:
        frames_seen: where both recordings ended a step, [step].
        jaccard: 1 where both keep the same tokens, [step, layer].
    """

    frames_seen: IntArray
    jaccard: npt.NDArray[np.float64]

    @property
    def per_layer(self) -> npt.NDArray[np.float64]:
        """Mean over steps, [layer]."""
        return self.jaccard.mean(0)

    @property
    def mean(self) -> float:
        """Mean over steps and layers."""
        return float(self.jaccard.mean())

    def to_json(self) -> str:
        """Strict JSON."""
        return json.dumps(
            {
                "mean": self.mean,
                "frames_seen": self.frames_seen.tolist(),
                "jaccard": self.jaccard.tolist(),
            }
        )


def diff(a: Recording, b: Recording) -> Agreement:
    """Compare the kept sets of two recordings wherever both have seen the same number of frames.

    Tokens are matched by what they are (frame, row, column), since ids differ where policies synthesise tokens.

    Raises:
        RecordingError: the recordings are of different streams, or no step ends at the same frame.
    """
    differing = difference(a.manifest, b.manifest)
    if differing is None and a.layers != b.layers:
        differing = f"numbers of layers differ ({a.layers} and {b.layers})"
    if differing is not None:
        raise RecordingError(
            f"{str(a.folder)!r} and {str(b.folder)!r} cannot be compared: their {differing}; "
            "record the same stream twice."
        )
    frames_seen, at_a, at_b = np.intersect1d(
        a.timeline.frames_seen, b.timeline.frames_seen, return_indices=True
    )
    if not len(frames_seen):
        raise RecordingError(
            f"{str(a.folder)!r} and {str(b.folder)!r} never end a step at the same frame; "
            "record both with the same --chunk-frames."
        )
    cells = _cells(a.tokens), _cells(b.tokens)
    states = CacheState(), CacheState()
    jaccard = np.empty((len(frames_seen), a.layers))
    edges = (np.array([-1, *at_a]), np.array([-1, *at_b]))
    for step, ((a0, a1), (b0, b1)) in enumerate(
        zip(pairwise(edges[0].tolist()), pairwise(edges[1].tolist()), strict=True)
    ):
        states = (
            a.advance(states[0], a0, a1),
            b.advance(states[1], b0, b1),
        )
        for layer, (one, two) in enumerate(zip(states[0].held, states[1].held, strict=True)):
            jaccard[step, layer] = _jaccard(cells[0], one, cells[1], two)
    return Agreement(frames_seen, jaccard)


def difference(a: Manifest, b: Manifest) -> str | None:
    """What shows that two recordings are of different streams, as the middle of a sentence; None where nothing does.

    Files are told apart by their bytes. A source without bytes of its own (a world, a camera) is what its name says.
    """
    hashed = None not in (a.source.sha256, b.source.sha256)
    for what, one, two in (
        ("source files", a.source.sha256, b.source.sha256) if hashed
        else ("sources", f"{a.source.kind} {a.source.name!r}", f"{b.source.kind} {b.source.name!r}"),
        ("frame rates", a.fps, b.fps),
        ("token grids", a.model.grid, b.model.grid),
        ("numbers of layers", a.model.layers, b.model.layers),
    ):  # fmt: skip
        if one != two and None not in (one, two):
            return f"{what} differ ({one} and {two})"
    return None


def _cells(table: TokenTable) -> IntArray:
    """One number for (frame, row, column) of each visual token, -1 for all others, [token]."""
    frame, row, col = (np.asarray(table.column(name), np.int64) for name in ("frame", "row", "col"))
    return np.where(table.column("role") == Role.VISUAL, (frame << 32) | (row << 16) | col, -1)


def _jaccard(cells_a: IntArray, a: IntArray, cells_b: IntArray, b: IntArray) -> float:
    heads = max(len(a), len(b))
    shared = either = 0
    for one, two in zip(
        np.broadcast_to(a, (heads, a.shape[-1])),
        np.broadcast_to(b, (heads, b.shape[-1])),
        strict=True,
    ):
        first, second = np.unique(cells_a[one]), np.unique(cells_b[two])
        first, second = first[first >= 0], second[second >= 0]
        both = len(np.intersect1d(first, second, assume_unique=True))
        shared += both
        either += len(first) + len(second) - both
    return shared / either if either else 1.0
