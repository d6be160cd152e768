"""What every frame source is: frames with times, cut into chunks, under one set of read options."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Self

import numpy as np

from hermes_lab.errors import VideoError
from hermes_lab.video.picture import Picture, letterbox


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of the sampled stream.

    `image` is uint8 [height, width, 3] RGB; `index` counts sampled frames from 0; `time_s` is when
    the frame was on screen, in seconds from the first frame of the source (see `sampling`).
    """

    image: Picture
    index: int
    time_s: float


class Chunk(tuple[Frame, ...]):
    """Consecutive frames, in order: a tuple of `Frame` with its arrays at hand."""

    __slots__ = ()

    @property
    def images(self) -> Picture:
        """The pictures as one uint8 [frames, height, width, 3] array (a copy)."""
        return np.stack([frame.image for frame in self])

    @property
    def times_s(self) -> tuple[float, ...]:
        """The presentation time of each frame, in seconds."""
        return tuple(frame.time_s for frame in self)


@dataclass(frozen=True)
class Limits:
    """The most that an untrusted input may ask for; None leaves that side open.

    `max_pixels` is width x height of one frame as stored.
    """

    max_bytes: int | None = None
    max_pixels: int | None = None
    max_duration_s: float | None = None

    def check_bytes(self, name: str, size_bytes: int) -> None:
        """Refuse an input that is larger than `max_bytes`."""
        if self.max_bytes is not None and size_bytes > self.max_bytes:
            raise VideoError(
                f"{name} is {size_bytes / 1e6:.1f} MB and the limit is {self.max_bytes / 1e6:.1f} MB: "
                "cut it or re-encode it smaller."
            )

    def check_pixels(self, name: str, width: int, height: int) -> None:
        """Refuse frames with more than `max_pixels` pixels."""
        if self.max_pixels is not None and width * height > self.max_pixels:
            raise VideoError(
                f"{name} has frames of {width} x {height} = {width * height} pixels and the limit is "
                f"{self.max_pixels}: scale it down first."
            )

    def check_duration(self, name: str, duration_s: float) -> None:
        """Refuse an input that plays for longer than `max_duration_s`."""
        if self.max_duration_s is not None and duration_s > self.max_duration_s:
            raise VideoError(
                f"{name} plays for {duration_s:.1f} s or more and the limit is "
                f"{self.max_duration_s:.1f} s: cut it shorter."
            )


@dataclass(frozen=True)
class ReadOptions:
    """How a source is read; `hermes_lab.video.open` documents each field."""

    fps: float | None = 1.0
    max_frames: int | None = None
    start_s: float = 0.0
    max_side_px: int | None = None
    square_pixels: bool = True
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise VideoError(
                f"fps is {self.fps}: give a positive number of frames per second, "
                "or None for every frame."
            )
        if self.max_frames is not None and self.max_frames < 1:
            raise VideoError(f"max_frames is {self.max_frames}: give at least 1, or None for all.")
        if not (math.isfinite(self.start_s) and self.start_s >= 0):
            raise VideoError(f"start_s is {self.start_s}: give a time of 0 s or later.")
        if self.max_side_px is not None and self.max_side_px < 1:
            raise VideoError(
                f"max_side_px is {self.max_side_px}: give at least 1, or None to keep the size."
            )


class FrameSource(ABC):
    """A stream of frames: iterate it, or take `chunks`; a context manager that frees what it holds.

    `name` is what to show a person, `kind` one of file, folder, camera, url, world and arrays.
    `duration_s` and `estimated_frames` are None where the source does not say. `damage` is None, or
    after (or during) an iteration one sentence on where and why the input broke off. `notes` are
    sentences on what was read otherwise than it was stored, such as times that cannot be. All frames of a
    source have the size of its first frame: a later picture of another size is scaled to fit inside
    it and padded with black. Only live sources refuse to be iterated twice.
    """

    name: str
    kind: str
    is_live: bool = False
    duration_s: float | None = None
    estimated_frames: int | None = None
    damage: str | None = None

    def __init__(self, options: ReadOptions) -> None:
        self.options = options
        self._closed = False
        self._running: Generator[Frame] | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about how the source is read, one sentence each; more may come while it is."""
        return ()

    @property
    def fps(self) -> float | None:
        """The sampling rate asked for, in frames per second; None means every frame."""
        return self.options.fps

    def sha256(self) -> str | None:
        """Hash of the source's bytes as hex digits; None for sources without bytes of their own."""
        return None

    def close(self) -> None:
        """Stop a running iteration and free what the source holds; closing twice is fine.

        An iteration that runs in another thread ends before its next frame.
        """
        self._closed = True
        if self._running is not None:
            with suppress(ValueError):  # A generator that another thread is inside of.
                self._running.close()
            self._running = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the sampled frames.

        Raises:
            VideoError: the source is closed, holds no frame to give, or breaks a limit.
        """
        if self._closed:
            raise VideoError(f"{self.name} is closed: open it again to read it.")
        self.damage = None
        self._running = self._frames()
        return self._running

    def chunks(self, frames: int) -> Iterator[Chunk]:
        """Yield the frames in chunks of `frames`; only the last one may be shorter."""
        if frames < 1:
            raise VideoError(f"A chunk of {frames} frames holds nothing: ask for at least 1.")
        rest = iter(self)
        while chunk := Chunk(islice(rest, frames)):
            yield chunk

    def _frames(self) -> Generator[Frame]:
        first: Picture | None = None
        with closing(self._pictures()) as pictures:
            for index, (time_s, image) in enumerate(islice(pictures, self.options.max_frames)):
                if self._closed:
                    return
                first = image if first is None else first
                yield Frame(letterbox(image, first.shape[:2]), index, time_s)
        if first is None:
            raise VideoError(self.damage or self._nothing_to_give())

    def _nothing_to_give(self) -> str:
        if self.options.start_s > 0:
            return f"{self.name} has no frame at {self.options.start_s:g} s: start earlier."
        return f"{self.name} holds no frames."

    @abstractmethod
    def _pictures(self) -> Generator[tuple[float, Picture]]:
        """Yield (time in seconds, RGB picture) of every sampled frame; may set `damage` and end."""
