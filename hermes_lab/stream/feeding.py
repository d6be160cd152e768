"""What may be fed to a session: arrays or frames, and presentation times that make one stream.

Times are seconds from the beginning of the stream and never run backwards. A clip that is fed after
another one has a clock of its own, which starts over: its times are shifted so that it follows the first
one, by the spacing of its own frames. The shift holds until the next clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes_lab.errors import LabError
from hermes_lab.stream.arguments import told
from hermes_lab.stream.state import StreamState
from hermes_lab.video import Chunk, Frame

Frames = Chunk | Sequence[Frame] | Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]

_USUAL_SPACING_S = 1.0
_LATEST_S = 1e8
"""Three years. Tokens keep their times in 32 bits, which tell seconds apart up to about here."""


@dataclass(frozen=True)
class Fed:
    """Arrays and their times in the stream.

    `shift_s` is what was added to the times as given, in seconds; `note` says so where it changed.
    """

    images: list[npt.NDArray[np.uint8]]
    times_s: list[float]
    shift_s: float
    note: str | None = None


def images_and_times(
    frames: Frames | Frame, times_s: Sequence[float] | None, stream: StreamState
) -> Fed:
    """Arrays and times of whatever was fed.

    Times that were given count; without them those of `Frame`s, and bare arrays follow what was fed
    before, one second apart.

    Raises:
        LabError: no frames, a wrong shape or dtype, or times that are no numbers of seconds, do not
            fit the frames, or run backwards.
    """
    items = [frames] if isinstance(frames, Frame) else _listed(frames, "Frames")
    if not items:
        raise LabError("There are no frames to feed.")
    images = [_picture(item) for item in items]
    if times_s is None and not all(isinstance(item, Frame) for item in items):
        start = stream.now_s + _USUAL_SPACING_S if stream.frames_seen else 0.0
        times = [start + i * _USUAL_SPACING_S for i in range(len(images))]
        return Fed(images, times, stream.shift_s)
    own = times_s is None
    given = [item.time_s for item in items] if own else _listed(times_s, "Times")
    if len(given) != len(images):
        raise LabError(f"{len(images)} frames were given {len(given)} times; give one each.")
    starts = [own and item.index == 0 for item in items]
    times, shift_s = _in_stream([_seconds(time) for time in given], starts, own, stream)
    note = None
    if shift_s != stream.shift_s:
        note = f"The times of the frames start over here; {shift_s:g} s are added to them from here on."
    return Fed(images, times, shift_s, note)


def _listed(given: object, what: str) -> list[Any]:
    if isinstance(given, str | bytes):
        raise LabError(
            f"{what} must be a list or an array, got {told(given)}; a file is opened with hermes_lab.video.open."
        )
    if not isinstance(given, Iterable):
        raise LabError(f"{what} must be a list or an array, got {told(given)}.")
    return list(given)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]


def _picture(item: object) -> npt.NDArray[np.uint8]:
    image = item.image if isinstance(item, Frame) else np.asarray(item)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise LabError(
            f"Frames must be RGB arrays [height, width, 3] of uint8, got {list(image.shape)} of {image.dtype}."
        )
    return image


def _seconds(given: object) -> float:
    """One presentation time as a float."""
    try:
        if isinstance(given, (str, bytes, bool, np.bool_)):
            raise TypeError
        time_s = float(given)  # pyright: ignore[reportArgumentType]  (whatever has a float value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        time_s = math.nan
    if not 0 <= time_s <= _LATEST_S:
        shown = f"{given!r:.24}" if isinstance(given, (int, float)) else type(given).__name__
        raise LabError(
            f"A presentation time is {shown}; give seconds from the stream's beginning, from 0 to {_LATEST_S:g}."
        )
    return time_s


def _in_stream(
    given_s: Sequence[float], starts: Sequence[bool], strictly: bool, stream: StreamState
) -> tuple[list[float], float]:
    """Times on the stream's clock, and what is added to the last of them.

    The clock of a clip may start over at the first frame, or at one that is the first of its source
    (`starts`). Sources never show two frames at one time (`strictly`), so there an equal time starts
    over too.
    """
    shift_s = stream.shift_s
    last_s = stream.now_s if stream.frames_seen else -math.inf
    times: list[float] = []
    for number, own_s in enumerate(given_s):
        time_s = own_s + shift_s
        earlier = time_s < last_s or (strictly and time_s == last_s)
        if earlier and number and not starts[number]:
            raise LabError(
                f"Times run backwards: frame {number} of the chunk is at {own_s:g} s, after one at "
                f"{given_s[number - 1]:g} s; feed frames in the order in which they are shown."
            )
        if earlier:
            time_s = last_s + _spacing_s(given_s[number:])
            shift_s = time_s - own_s
        times.append(time_s)
        last_s = time_s
    return times, shift_s


def _spacing_s(given_s: Sequence[float]) -> float:
    """The gap between the first two frames of a clip; one second where they tell of none."""
    gap_s = given_s[1] - given_s[0] if len(given_s) > 1 else 0.0
    return gap_s if gap_s > 0 else _USUAL_SPACING_S
