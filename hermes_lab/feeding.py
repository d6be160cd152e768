"""What may be fed to a session, as arrays and presentation times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes_lab.errors import LabError
from hermes_lab.stream_state import StreamState
from hermes_lab.video import Chunk, Frame

Frames = Chunk | Sequence[Frame] | Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]


def images_and_times(
    frames: Frames | Frame, times_s: Sequence[float] | None, stream: StreamState
) -> tuple[list[npt.NDArray[np.uint8]], list[float]]:
    """Arrays and times of whatever was fed.

    Raises:
        LabError: no frames, a wrong shape or dtype, or times that do not fit.
    """
    if isinstance(frames, Frame):
        frames = [frames]
    items: list[Any] = list(frames)
    if not items:
        raise LabError("There are no frames to feed.")
    images = [item.image if isinstance(item, Frame) else np.asarray(item) for item in items]
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise LabError(
                f"Frames must be RGB arrays [height, width, 3] of uint8, got {list(image.shape)} of {image.dtype}."
            )
    if all(isinstance(item, Frame) for item in items):
        times = [float(item.time_s) for item in items]
    elif times_s is None:
        start = stream.now_s + 1.0 if stream.frames_seen else 0.0
        times = [start + i for i in range(len(images))]
    else:
        times = [float(t) for t in times_s]
    if len(times) != len(images):
        raise LabError(f"{len(images)} frames were given {len(times)} times; give one each.")
    return images, times
