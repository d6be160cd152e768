"""Recorded video through PyAV: files, and URLs that have an end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from hermes_lab.errors import VideoError
from hermes_lab.video.demux import (
    FAULTS,
    Damage,
    decoding,
    frames_until_damage,
    reason,
    video_stream,
)
from hermes_lab.video.hdr import hdr_kind, hdr_note
from hermes_lab.video.live_clock import is_clockless
from hermes_lab.video.picture import Picture, upright
from hermes_lab.video.sampling import PresentationClock, Timed, from_start, shown_at_rate
from hermes_lab.video.source import FrameSource, ReadOptions
from hermes_lab.video.stamps import (
    DECODE_ORDER_FORMATS,
    FRAMES_TO_JUDGE,
    Stamps,
    Trust,
    seconds,
)

_USUAL_INTERVAL_S = 1 / 25
_JOINABLE_FORMATS = frozenset({"mpegts", "mpeg"})
_SEEK_EARLIER_S = (0.0, 10.0)
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
        self._trust = Trust()
        self._interval_s = math.inf
        self._promised_s: float | None = None
        self._pixel_aspect: Fraction | None = None
        self._hdr: str | None = None
        self._clockless = False
        self._one_clock_known: bool | None = None
        with closing(open_container()) as container, decoding(name):
            self._probe(container)

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether its rate had to be assumed, and its pictures mapped from a high dynamic range."""
        said: list[str] = []
        if self._clockless:
            said.append(
                f"{self.name} carries no times of its own: {1 / self._usual_s:.5g} frames per second are "
                "assumed."
            )
        if self._hdr is not None:
            said.append(hdr_note(self.name, self._hdr))
        return tuple(said)

    @property
    def _usual_s(self) -> float:
        return self._interval_s if math.isfinite(self._interval_s) else _USUAL_INTERVAL_S

    def sha256(self) -> str | None:
        """SHA-256 of the file as hex digits; None for a URL.

        Raises:
            VideoError: the file has gone or may not be read.
        """
        if self._sha256 is None and self._path is not None:
            try:
                with self._path.open("rb") as file:
                    self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise VideoError(f"{self.name} cannot be read: {error.strerror}.") from error
        return self._sha256

    def _probe(self, container: InputContainer) -> None:
        """Read the header and the first frame: rate, duration, origin of time, limits."""
        limits = self.options.limits
        stream = video_stream(container, self.name, limits)
        limits.check_pixels(self.name, stream.width, stream.height)
        rate = stream.guessed_rate or stream.average_rate
        self._interval_s = float(1 / rate) if rate else math.inf
        self._pixel_aspect = stream.sample_aspect_ratio
        self._clockless = is_clockless(container.format.name)
        self._hdr = hdr_kind(stream.codec_context.color_trc)
        self._promised_s = seconds(stream.duration, stream.time_base)
        whole_s = None if container.duration is None else container.duration / 1e6
        if self._promised_s is None and len(container.streams) == 1:
            self._promised_s = whole_s
        self.duration_s = whole_s if self._promised_s is None else self._promised_s
        if self.duration_s is not None:
            limits.check_duration(self.name, self.duration_s)
        self._judge_stamps(container, stream)
        if "matroska" in container.format.name and self._promised_s is not None:
            # Matroska counts its duration from time zero, and not from the first frame.
            self._promised_s -= max(0.0, self._origin_s or 0.0)
            self.duration_s = self._promised_s
        self.estimated_frames = self._estimate(stream.frames)

    def _judge_stamps(self, container: InputContainer, stream: VideoStream) -> None:
        """Decode the first frame, and more of them where frames are reordered, to learn what their
        stamps are worth; the first one's is the origin of time."""
        formats = set(container.format.name.split(","))
        stamps = Stamps(Trust(by_dts=bool(formats & DECODE_ORDER_FORMATS)))
        to_judge = FRAMES_TO_JUDGE if stream.codec_context.has_b_frames else 1
        good = 0
        why = "it is empty."
        with closing(frames_until_damage(container, stream, stamps)) as entries:
            for entry in entries:
                if isinstance(entry, Damage):
                    why = self._damaged(0.0, entry)
                    if self.kind == "url" and "mov" in formats:
                        why = (
                            f"either its index is at its end and the server cannot seek ({entry.why}), or "
                            "it is damaged; download it and open the file."
                        )
                    continue
                self._origin_s = self._origin_s if good else entry.raw_s
                good += 1
                if good == to_judge:
                    break
        if not good:
            raise VideoError(f"No frame of {self.name} can be decoded: {why}")
        self._trust = stamps.trust

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
        last_s = 0.0
        try:
            with closing(self._sampled()) as sampled:
                for time_s, _, frame in sampled:
                    last_s = time_s
                    yield time_s, self._upright(frame, time_s)
        except FAULTS as error:
            self.damage = self._damaged(last_s, Damage(None, reason(error)))

    def _sampled(self) -> Generator[Timed[VideoFrame]]:
        options = self.options
        with closing(self._from_keyframe()) as frames:
            if options.fps is None:
                yield from from_start(frames, options.start_s)
            else:
                yield from shown_at_rate(
                    frames, fps=options.fps, start_s=options.start_s, interval_s=self._interval_s
                )

    def _upright(self, frame: VideoFrame, time_s: float) -> Picture:
        options = self.options
        options.limits.check_duration(self.name, time_s)
        options.limits.check_pixels(self.name, frame.width, frame.height)
        aspect = self._pixel_aspect if options.square_pixels else None
        return upright(frame, max_side_px=options.max_side_px, pixel_aspect=aspect)

    def _from_keyframe(self) -> Generator[Timed[VideoFrame]]:
        """Decode from a keyframe shortly before `start_s`; from the beginning where no seek lands
        there (MPEG-TS seeks into the middle of a group of pictures, raw streams not at all, and in
        joined recordings a time exists twice)."""
        start_s = self.options.start_s
        if start_s > 0 and self._origin_s is not None and self._one_clock():
            for earlier_s in _SEEK_EARLIER_S:
                with closing(self._open_container()) as container:
                    stream = video_stream(container, self.name, self.options.limits)
                    target_s = self._origin_s + max(0.0, start_s - earlier_s)
                    if not _sought(container, stream, target_s):
                        break
                    with closing(self._decoded(container, stream, sought=True)) as frames:
                        first = next(frames, None)
                        if first is not None and first.time_s <= start_s:
                            yield first
                            yield from frames
                            return
                self.damage = None
        with closing(self._open_container()) as container:
            stream = video_stream(container, self.name, self.options.limits)
            yield from self._decoded(container, stream)

    def _one_clock(self) -> bool:
        """Whether every time exists once, so that it can be sought; formats that may be joined by
        appending one file to another are read through once to know, without decoding."""
        if self._one_clock_known is None:
            with closing(self._open_container()) as container:
                stream = video_stream(container, self.name, self.options.limits)
                joinable = container.format.name in _JOINABLE_FORMATS
                self._one_clock_known = not joinable or (
                    self._path is not None and not _starts_over(container, stream)
                )
        return self._one_clock_known

    def _decoded(
        self, container: InputContainer, stream: VideoStream, *, sought: bool = False
    ) -> Generator[Timed[VideoFrame]]:
        """Yield every good frame with its time; at damage, record it and stop.

        After a seek there is nothing to yield unless the first frame is a keyframe of known time.
        """
        usual_s = self._usual_s
        clock = PresentationClock(
            origin_s=self._origin_s, interval_s=usual_s, duration_s=self.duration_s
        )
        stamps = Stamps(self._trust)
        shown = _Shown()
        for entry in frames_until_damage(container, stream, stamps):
            if isinstance(entry, Damage):
                self.damage = self._damaged(clock.place(entry.raw_s), entry)
                continue
            frame = entry.frame
            if sought and not shown.frames and (entry.raw_s is None or not frame.key_frame):
                return
            # A decoding time's duration is that of another frame.
            lasts_s = None if stamps.by_dts else seconds(frame.duration, frame.time_base) or None
            time_s = clock.stamp(entry.raw_s, lasts_s=lasts_s)
            shown.add(time_s, time_s + (lasts_s or usual_s))
            yield Timed(time_s, lasts_s, frame)
        if self.damage is not None or self._promised_s is None or shown.frames == stream.frames:
            return
        # The last decoding times are lost in reordering, so the end is known to the widest gap.
        slack_s = _ROUNDING_FRAMES * (max(usual_s, shown.widest_s) if stamps.by_dts else usual_s)
        if shown.frames and self._promised_s - shown.end_s > slack_s:
            self.damage = (
                f"{self.name} is truncated at {shown.end_s:.2f} s: its header promises "
                f"{self._promised_s:.2f} s."
            )

    def _damaged(self, where_s: float, damage: Damage) -> str:
        return f"{self.name} is damaged at {where_s:.2f} s: {damage.why}."


class _Shown:
    """How much of a video came out so far: frames, the end of the last one, and the widest gap."""

    def __init__(self) -> None:
        self.frames = 0
        self.end_s = 0.0
        self.widest_s = 0.0
        self._last_s: float | None = None

    def add(self, time_s: float, end_s: float) -> None:
        if self._last_s is not None:
            self.widest_s = max(self.widest_s, time_s - self._last_s)
        self.frames += 1
        self.end_s, self._last_s = end_s, time_s


def _starts_over(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the decoding times of a stream run backwards anywhere."""
    last: int | None = None
    try:
        for packet in container.demux(stream):
            if packet.dts is not None and last is not None and packet.dts < last:
                return True
            last = last if packet.dts is None else packet.dts
    except FAULTS:
        return True
    return False


def _sought(container: InputContainer, stream: VideoStream, target_s: float) -> bool:
    """Seek to the keyframe at or before a time of the stream's own clock, if the input can seek."""
    if stream.time_base is None:
        return False
    try:
        container.seek(int(target_s / stream.time_base), stream=stream)
    except FAULTS:
        return False
    return True
