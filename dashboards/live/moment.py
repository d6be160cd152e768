"""What the Live page draws, whether it comes from a running stream or from a recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dashboards.live.pictures import Picture
from dashboards.parts.policy_text import short_spec
from hermes_lab.figures import Strip, make_strip
from hermes_lab.recording import Recording, Retention, TokenState
from hermes_lab.snapshot import Answer, Snapshot
from hermes_lab.tokens import TokenTable

if TYPE_CHECKING:
    from dashboards.live.stream_view import StreamView
    from dashboards.live.worker import StreamWorker

SHORTEST_ROOM = 64


@dataclass(frozen=True)
class Moment:
    """One moment of a stream.

    Attributes:
        seq: number of the step; the strip of a stream changes with it alone.
        ids, state: video tokens and their `TokenState`, [token], [layer, token].
        strip: the same at drawing size.
        grid: rows and columns of tokens in a frame.
        picture: frame -> RGB picture, or None.
        frame: the newest frame that was fed.
    """

    seq: int
    snapshot: Snapshot
    table: TokenTable
    ids: npt.NDArray[np.int64]
    state: npt.NDArray[np.int8]
    strip: Strip
    grid: tuple[int, int]
    picture: Callable[[int], Picture | None]
    answers: tuple[Answer, ...]
    policy: str
    model: str

    @property
    def frame(self) -> int:
        return self.snapshot.frames_seen - 1

    @cached_property
    def arrived_tokens(self) -> int:
        """How many of the video tokens have come; a recording knows the later ones too."""
        came = np.flatnonzero((self.state != TokenState.ABSENT).any(0))
        return int(came[-1]) + 1 if len(came) else 0

    def column(self, name: str) -> npt.NDArray[Any]:
        """A column of the token table, for the video tokens."""
        return self.table.column(name)[self.ids]

    def token_at(self, layer: int, column: int) -> int:
        """Global id of the token that a strip's cell stands for: one that the layer holds, where it holds any."""
        first, last = int(self.strip.first[column]), int(self.strip.first[column + 1])
        last = min(max(last, first + 1), len(self.ids))
        first = min(first, last - 1)
        wanted = self.strip.state[layer, column]
        inside = np.flatnonzero(self.state[layer, first:last] == wanted)
        return int(self.ids[first + (inside[0] if len(inside) else 0)])


def recorded_moment(recording: Recording, retention: Retention, index: int) -> Moment:
    """The moment after the step with this 0-based index; `retention` is `recording.retention()`."""
    snapshot = recording.steps[index]
    table = recording.tokens
    state = retention.state(snapshot.step)

    def picture(frame: int) -> Picture | None:
        from hermes_lab.errors import RecordingError

        try:
            return recording.thumbnail(frame)
        except RecordingError:
            return None

    return Moment(
        seq=index,
        snapshot=snapshot,
        table=table,
        ids=retention.ids,
        state=state,
        strip=make_strip(
            state, table.column("frame")[retention.ids], table.column("time_s")[retention.ids]
        ),
        grid=recording.manifest.model.grid,
        picture=picture,
        answers=tuple(
            a
            for a in recording.answers
            if a.step <= snapshot.step + 1 and a.time_s <= snapshot.time_s
        ),
        policy=short_spec(recording.manifest.policy),
        model=recording.manifest.model.name,
    )


def live_moment(worker: StreamWorker, view: StreamView) -> Moment | None:
    """The newest moment of a running stream; None before its first step."""
    if view.snapshot is None:
        return None
    table, ids = view.table, view.ids
    row, col = table.column("row"), table.column("col")
    room = room_frames(view.snapshot.frames_seen, view.expected_frames)
    return Moment(
        seq=view.snapshot.step,
        snapshot=view.snapshot,
        table=table,
        ids=ids,
        state=view.states,
        strip=make_strip(
            view.states,
            table.column("frame")[ids],
            table.column("time_s")[ids],
            room=room * max(view.tokens_per_frame, 0),
        ),
        grid=(int(row.max(initial=0)) + 1, int(col.max(initial=0)) + 1),
        picture=worker.picture,
        answers=view.answers,
        policy=view.policy,
        model=worker.settings.model,
    )


def room_frames(seen: int, expected: int | None) -> int:
    """How many frames a running strip keeps room for: a power of two, so that it grows seldom, and no more than come.

    A strip with room for an hour would show the first minutes as a line.
    """
    return min(1 << max(seen, SHORTEST_ROOM - 1).bit_length(), expected or seen)
