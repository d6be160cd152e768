"""Live video: cameras and streams without an end, read by a thread so that they never lag."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from hermes_lab.errors import VideoError
from hermes_lab.video.demux import FAULTS, Damage, decoding, frames_and_damage, reason, video_stream
from hermes_lab.video.hdr import hdr_kind, hdr_note
from hermes_lab.video.live_clock import LiveClock, is_clockless
from hermes_lab.video.picture import Picture, upright
from hermes_lab.video.sampling import LiveGrid
from hermes_lab.video.source import FrameSource, ReadOptions
from hermes_lab.video.stamps import Stamps


class LiveSource(FrameSource):
    """Frames of a camera or an endless stream, as they come; it can be iterated once.

    A thread reads and decodes all the time and samples at `fps` by the stream's own clock, or by the
    wall clock where that one cannot be believed (`notes` says so; see `live_clock`). At most
    `buffer_frames` sampled frames wait for the reader of this object; when one more comes, the
    oldest is dropped (`dropped_frames` counts them), so that the delay never exceeds
    `buffer_frames / fps` seconds. Frames that arrive damaged are passed over. When the input ends,
    fails, or is silent for `timeout_s`, the frames so far are delivered and `damage` says why.
    """

    is_live = True

    def __init__(
        self,
        open_container: Callable[[], InputContainer],
        options: ReadOptions,
        *,
        name: str,
        kind: str,
        timeout_s: float = 10.0,
        buffer_frames: int = 16,
    ) -> None:
        super().__init__(options)
        self.name = name
        self.kind = kind
        self.dropped_frames = 0
        self._timeout_s = timeout_s
        self._waiting: deque[tuple[float, Picture]] = deque(maxlen=buffer_frames)
        self._news = threading.Condition()
        self._stop = threading.Event()
        self._ended = False
        self._heard_s = 0.0
        self._waited_s = 0.0
        self._hdr: str | None = None
        self._why: str | None = None
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._container = open_container()
        try:
            with decoding(name):
                self._stream = video_stream(self._container, name, options.limits)
                options.limits.check_pixels(name, self._stream.width, self._stream.height)
        except VideoError:
            self._container.close()
            raise
        self._clock = LiveClock(
            believed=not is_clockless(self._container.format.name), opened_s=time.monotonic()
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether its pictures are mapped from a high dynamic range, and why its frames were timed by
        their arrival, if they were."""
        clock = self._clock.note(self.name)
        hdr = None if self._hdr is None else hdr_note(self.name, self._hdr)
        return tuple(note for note in (hdr, clock) if note is not None)

    def close(self) -> None:
        """Stop reading and free the device; a read that is under way ends in the background."""
        self._end()
        super().close()
        if self._thread is None:
            self._container.close()
        else:
            self._thread.join(timeout=1.0)

    def _pictures(self) -> Generator[tuple[float, Picture]]:
        if self._thread is not None:
            raise VideoError(f"{self.name} is live and was read already: open it again.")
        self._thread = threading.Thread(target=self._read, name=f"read {self.name}", daemon=True)
        self._heard_s = time.monotonic()
        self._thread.start()
        last_s = 0.0
        try:
            while (picture := self._next_picture(last_s)) is not None:
                last_s = picture[0]
                yield picture
        finally:
            self._stop.set()

    def _next_picture(self, last_s: float) -> tuple[float, Picture] | None:
        with self._news:
            silent = False
            while not (self._waiting or self._ended or silent):
                # The silence of the input counts, not that of a slow sampling rate.
                patience_s = self._heard_s + self._timeout_s - time.monotonic()
                silent = patience_s <= 0
                self._news.wait(max(0.0, patience_s))
            if self._waiting:
                return self._waiting.popleft()
        if self._failure is not None:
            raise self._failure
        why = f"no frame came for {self._timeout_s:g} s" if silent else self._why
        if why is not None:
            self.damage = f"{self.name} stopped after {last_s:.2f} s: {why}."
        return None

    def _read(self) -> None:
        """The reading thread: decode, sample and queue until told to stop or the input ends."""
        try:
            self._why = self._read_until_end()
        except FAULTS as error:
            self._why = reason(error)
        except BaseException as error:  # It is raised again where the frames are consumed.
            self._failure = error
        finally:
            self._container.close()
            self._end()

    def _read_until_end(self) -> str | None:
        options = self.options
        stamps = Stamps()
        grid = LiveGrid(options.fps, options.start_s)
        aspect = self._stream.sample_aspect_ratio if options.square_pixels else None
        why: str | None = "the input ended"
        packets = self._waited(self._container.demux(self._stream))
        for entry in frames_and_damage(self._container, self._stream, packets):
            if self._stop.is_set():
                return None
            if isinstance(entry, Damage):
                why = entry.why
                continue
            why = "the input ended"
            self._hdr = hdr_kind(entry.color_trc)
            self._heard_s = time.monotonic()
            time_s = self._clock.stamp(stamps.raw_s(entry), self._heard_s, self._waited_s)
            if grid.takes(time_s):
                image = upright(entry, max_side_px=options.max_side_px, pixel_aspect=aspect)
                self._queue(time_s, image)
        return why

    def _waited(self, packets: Iterator[Packet[VideoStream]]) -> Generator[Packet[VideoStream]]:
        """Hand packets on, and add up how long each was waited for."""
        while True:
            began_s = time.monotonic()
            packet = next(packets, None)
            self._waited_s += time.monotonic() - began_s
            if packet is None:
                return
            yield packet

    def _end(self) -> None:
        self._stop.set()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _queue(self, time_s: float, image: Picture) -> None:
        with self._news:
            if len(self._waiting) == self._waiting.maxlen:
                self.dropped_frames += 1
            self._waiting.append((time_s, image))
            self._news.notify_all()
