"""From a recording to what figures draw, in one call each: the code that "Copy as Python" shows."""

from __future__ import annotations

import numpy as np

from hermes_lab.figures.attention import HeldFrames
from hermes_lab.figures.strip import MAX_COLUMNS, Strip, make_strip
from hermes_lab.recording import Recording
from hermes_lab.snapshot import Snapshot
from hermes_lab.tokens import TokenTable


def recorded_strip(
    recording: Recording, step: int | None = None, *, max_columns: int = MAX_COLUMNS
) -> Strip:
    """The retention strip of a recording after the step with this `Snapshot.step` (default: the last)."""
    retention = recording.retention()
    table = recording.tokens
    return make_strip(
        retention.state(step),
        table.column("frame")[retention.ids],
        table.column("time_s")[retention.ids],
        max_columns=max_columns,
    )


def held_frames(snapshot: Snapshot, table: TokenTable) -> HeldFrames:
    """How many tokens of each frame every layer held after a step: the null that attention is compared with."""
    frame = table.column("frame")
    time_s = table.column("time_s")
    frames = snapshot.frames_seen
    tokens = np.zeros((len(snapshot.held), frames))
    for layer, ids in enumerate(snapshot.held):
        of = frame[ids.ravel()]
        of = of[(of >= 0) & (of < frames)]
        tokens[layer] = np.bincount(of, minlength=frames)[:frames] / max(len(ids), 1)
    when = np.full(frames, np.nan)
    known = (frame >= 0) & (frame < frames)
    when[frame[known]] = time_s[known]
    return HeldFrames(tokens, np.where(np.isnan(when), np.arange(frames), when), snapshot.time_s)
