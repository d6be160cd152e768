"""Recorded video through PyAV: files, and URLs that have an end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from hermes_lab.errors import VideoError
from hermes_lab.video.demux import (
    Damage,
    frames_and_damage,
    frames_held_back,
    presented_s,
    seconds,
    video_stream,
)
from hermes_lab.video.picture import Picture, upright
from hermes_lab.video.sampling import PresentationClock, Timed, from_start, shown_at_rate
from hermes_lab.video.source import FrameSource, ReadOptions

_USUAL_INTERVAL_S = 1 / 25
_ROUNDING_FRAMES = 2.5
"""Headers round durations up; a stream that ends fewer frames before its promise counts as whole."""


class ContainerSource(FrameSource):
    """Frames of a recorded video, decoded one at a time (never the whole file in memory).

    Time 0 is the first frame that can be decoded. Decoding runs in one thread per slice, not per
    frame, so that damage is located by the frame: the frames before it are delivered, then the
    iteration ends and `damage` says where and why. What cannot be decoded ahead of the first good
    frame (a recording that starts mid-stream) is passed over, and `damage` mentions it. Damage that
    happens to decode to a picture is beyond any decoder's notice.

    Raises:
        VideoError: it cannot be opened, is no video, holds no decodable frame, or breaks a limit.
    """

    def __init__(
        self,
        open_container: Callable[[], InputContainer],
        options: ReadOptions,
        *,
        name: str,
        kind: str,
        path: Path | None = None,
    ) -> None:
        super().__init__(options)
        self.name = name
        self.kind = kind
        self._open_container = open_container
        self._path = path
        self._sha256: str | None = None
        self._origin_s: float | None = None
        self._interval_s = math.inf
        self._promised_s: float | None = None
        with closing(open_container()) as container:
            self._probe(container)

    def sha256(self) -> str | None:
        """SHA-256 of the file as hex digits; None for a URL."""
        if self._sha256 is None and self._path is not None:
            with self._path.open("rb") as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return self._sha256

    def _probe(self, container: InputContainer) -> None:
        """Read the header and the first frame: rate, duration, origin of time, limits."""
        limits = self.options.limits
        stream = video_stream(container, self.name, limits)
        limits.check_pixels(self.name, stream.width, stream.height)
        rate = stream.guessed_rate or stream.average_rate
        self._interval_s = float(1 / rate) if rate else math.inf
        self._promised_s = seconds(stream.duration, stream.time_base)
        whole_s = None if container.duration is None else container.duration / 1e6
        if self._promised_s is None and len(container.streams) == 1:
            self._promised_s = whole_s
        self.duration_s = whole_s if self._promised_s is None else self._promised_s
        if self.duration_s is not None:
            limits.check_duration(self.name, self.duration_s)
        with closing(self._decoded(container, stream)) as frames:
            first = next(frames, None)
        if first is None:
            raise VideoError(
                f"No frame of {self.name} can be decoded: {self.damage or 'it is empty.'}"
            )
        self._origin_s = presented_s(first.item)
        self.damage = None
        self.estimated_frames = self._estimate(stream.frames)

    def _estimate(self, stored_frames: int) -> int | None:
        fps = self.options.fps
        if self.duration_s is None:
            return None
        left_s = max(0.0, self.duration_s - self.options.start_s)
        if fps is not None:
            count = math.ceil((left_s - 0.5 * min(self._interval_s, 1 / fps)) * fps)
        elif stored_frames and not self.options.start_s:
            count = stored_frames
        elif math.isfinite(self._interval_s):
            count = round(left_s / self._interval_s)
        else:
            return None
        return min(max(0, count), self.options.max_frames or count)

    def _pictures(self) -> Generator[tuple[float, Picture]]:
        options = self.options
        with closing(self._open_container()) as container:
            stream = video_stream(container, self.name, options.limits)
            aspect = stream.sample_aspect_ratio if options.square_pixels else None
            frames = self._from_keyframe(container, stream)
            if options.fps is None:
                sampled = from_start(frames, options.start_s)
            else:
                sampled = shown_at_rate(
                    frames, fps=options.fps, start_s=options.start_s, interval_s=self._interval_s
                )
            for time_s, _, frame in sampled:
                options.limits.check_duration(self.name, time_s)
                options.limits.check_pixels(self.name, frame.width, frame.height)
                yield (
                    time_s,
                    upright(frame, max_side_px=options.max_side_px, pixel_aspect=aspect),
                )

    def _from_keyframe(
        self, container: InputContainer, stream: VideoStream
    ) -> Generator[Timed[VideoFrame]]:
        """Decode from the last keyframe at or before `start_s`; from the beginning where the
        container cannot seek there."""
        start_s, base = self.options.start_s, stream.time_base
        if start_s > 0 and self._origin_s is not None and base is not None:
            try:
                container.seek(int((start_s + self._origin_s) / base), stream=stream)
            except FFmpegError:
                pass  # An input that cannot seek is still at its beginning.
            else:
                with closing(self._decoded(container, stream)) as frames:
                    first = next(frames, None)
                    if first is not None and first.time_s <= start_s:
                        yield first
                        yield from frames
                        return
                self.damage = None
                container.seek(int(self._origin_s / base), stream=stream)
        yield from self._decoded(container, stream)

    def _decoded(
        self, container: InputContainer, stream: VideoStream
    ) -> Generator[Timed[VideoFrame]]:
        """Yield every good frame with its time; at damage, record it and stop."""
        usual_s = self._interval_s if math.isfinite(self._interval_s) else _USUAL_INTERVAL_S
        clock = PresentationClock(
            origin_s=self._origin_s, interval_s=usual_s, duration_s=self.duration_s
        )
        end_s = 0.0
        frames_out = 0
        for entry in frames_and_damage(container, stream):
            broken = entry if isinstance(entry, Damage) else None
            good = [entry] if isinstance(entry, VideoFrame) else []
            if broken is not None:
                good = frames_held_back(stream, broken.raw_s)
            for frame in good:
                lasts_s = seconds(frame.duration, frame.time_base) or None
                time_s = clock.stamp(presented_s(frame), lasts_s=lasts_s)
                end_s = time_s + (lasts_s or usual_s)
                frames_out += 1
                yield Timed(time_s, lasts_s, frame)
            if broken is not None:
                where_s = self._since_first(broken.raw_s, otherwise_s=end_s)
                self.damage = f"{self.name} is damaged at {where_s:.2f} s: {broken.why}."
                if frames_out:
                    return
        short_s = 0.0 if self._promised_s is None else self._promised_s - end_s
        if frames_out and short_s > _ROUNDING_FRAMES * usual_s and frames_out != stream.frames:
            self.damage = (
                f"{self.name} is truncated at {end_s:.2f} s: its header promises "
                f"{self._promised_s:.2f} s."
            )

    def _since_first(self, raw_s: float | None, *, otherwise_s: float) -> float:
        if raw_s is None or self._origin_s is None:
            return otherwise_s
        return max(0.0, raw_s - self._origin_s)
