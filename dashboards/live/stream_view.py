"""What a stream is asked to be, and what a page sees of it while it runs: frozen values, for any thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hermes_lab.snapshot import Answer, Snapshot
from hermes_lab.tokens import TokenTable

Status = Literal["loading", "playing", "paused", "finished", "failed", "stopped"]
UNPACED = 0.0  # speed at which frames are taken as fast as the model goes


@dataclass(frozen=True)
class StreamSettings:
    """What to run.

    Attributes:
        source: as `hermes_lab.video.open` takes it; label: how to call it on the page and in the manifest.
        model: name or folder; policy: `Policy.config()`.
        speed: stream seconds per second; 0 runs as fast as the model goes.
        record: folder of a new recording, or None.
    """

    source: str
    label: str
    model: str
    policy: dict[str, Any]
    fps: float = 1.0
    chunk_frames: int = 4
    speed: float = 4.0
    max_frames: int | None = None
    positions: str | None = None
    seed: int = 0
    record: Path | None = None
    record_level: Literal["summary", "rows"] = "summary"
    start_paused: bool = False


@dataclass(frozen=True)
class StreamView:
    """What a page draws; replaced as a whole, never changed.

    Attributes:
        seq: grows with every publication.
        ids, states: video tokens so far and their `TokenState`, [token], [layer, token].
        table: what every token is, as of the last step.
        layers: of the model; 0 before it is loaded.
        on_the_way: number and stream time of the frames that arrived but are not prefilled yet.
        next_due: `time.monotonic()` at which the next frame is due, None where the stream stands still or is not
            paced; every_s: wall seconds from one frame to the next, 0 where it is not paced.
        frames_per_s: stream frames prefilled per wall second over the last steps.
        cache_bytes: (time_s, bytes) after every step.
        answering: text so far of the answer being generated.
        notes: what to know of the source, the budget and the policy; each sentence stays as long as the stream lasts.
        error: what went wrong, in a sentence; the stream may go on all the same.
    """

    seq: int = 0
    status: Status = "loading"
    snapshot: Snapshot | None = None
    ids: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    states: npt.NDArray[np.int8] = field(default_factory=lambda: np.empty((0, 0), np.int8))
    table: TokenTable = field(default_factory=TokenTable)
    layers: int = 0
    on_the_way: tuple[tuple[int, float], ...] = ()
    next_due: float | None = None
    every_s: float = 1.0
    frames_arrived: int = 0
    expected_frames: int | None = None
    tokens_per_frame: int = 0
    policy: str = ""
    frames_per_s: float = float("nan")
    cache_bytes: tuple[tuple[float, int], ...] = ()
    answers: tuple[Answer, ...] = ()
    answering: str | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    source_name: str = ""
    source_kind: str = ""
