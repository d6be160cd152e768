"""Pictures without times of their own, shown at an even spacing; arrays and images from Python."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hermes_lab.errors import VideoError
from hermes_lab.video.levels import Levels, spread
from hermes_lab.video.picture import Picture, shrunk
from hermes_lab.video.source import Frame, FrameSource, ReadOptions

PictureLike = NDArray[np.uint8] | Image.Image | Frame


class SpacedSource(FrameSource):
    """Pictures of which number k is shown at `k / fps` seconds; each one is delivered, none twice.

    `fps` is therefore their spacing (one per second where it is None), not a sampling rate.
    """

    def __init__(
        self, options: ReadOptions, *, name: str, kind: str, available_frames: int | None
    ) -> None:
        super().__init__(options)
        self.name = name
        self.kind = kind
        self._spacing_s = 1.0 if options.fps is None else 1.0 / options.fps
        self._first = math.ceil(options.start_s / self._spacing_s - 1e-6)
        if available_frames is not None:
            self.duration_s = available_frames * self._spacing_s
            left = max(0, available_frames - self._first)
            self.estimated_frames = min(left, options.max_frames or left)
            options.limits.check_duration(name, self.duration_s)

    def _pictures(self) -> Generator[tuple[float, Picture]]:
        limits = self.options.limits
        for number, image in enumerate(self._numbered_from(self._first), self._first):
            time_s = number * self._spacing_s
            limits.check_duration(self.name, time_s)
            limits.check_pixels(self.name, image.shape[1], image.shape[0])
            yield time_s, shrunk(image, self.options.max_side_px)

    @abstractmethod
    def _numbered_from(self, first: int) -> Iterator[Picture]:
        """Yield picture `first` and those after it; may set `damage` and end early."""


class ArraySource(SpacedSource):
    """Frames handed over in Python; an iterator (rather than a sequence) can be read only once."""

    def __init__(
        self,
        frames: NDArray[np.uint8] | Iterable[PictureLike],
        options: ReadOptions,
        *,
        name: str = "arrays",
    ) -> None:
        if isinstance(frames, np.ndarray) and frames.ndim != 4:
            raise VideoError(
                f"An array of shape {list(frames.shape)} is no stack of frames: "
                "give uint8 [frames, height, width, 3]."
            )
        self._given: Iterable[PictureLike] = frames
        self._levels = Levels()
        count = len(frames) if isinstance(frames, (np.ndarray, Sequence)) else None
        super().__init__(options, name=name, kind="arrays", available_frames=count)

    @property
    def notes(self) -> tuple[str, ...]:
        """How pictures with more than 8 bits were scaled, if there were any."""
        note = self._levels.note(self.name)
        return () if note is None else (note,)

    def _numbered_from(self, first: int) -> Iterator[Picture]:
        self._levels = Levels()
        if isinstance(self._given, Sequence):
            shown = [given for given in self._given[first:] if isinstance(given, Image.Image)]
            self._levels.learn(spread(shown))
        for number, given in islice(enumerate(self._given), first, None):
            yield as_rgb(given, f"frame {number} of {self.name}", self._levels)


def as_rgb(given: PictureLike, name: str, levels: Levels) -> Picture:
    """Bring an array, a PIL image or a `Frame` to uint8 [height, width, 3] RGB; `levels` is the scale
    of images with more than 8 bits.

    Raises:
        VideoError: it is something else, or an array of another type or shape.
    """
    if isinstance(given, Frame):
        return given.image
    if isinstance(given, Image.Image):
        return levels.rgb(given)
    array = np.asarray(given)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise VideoError(
            f"The {name} is {array.dtype} {list(array.shape)}: give uint8 [height, width, 3] RGB."
        )
    return array
