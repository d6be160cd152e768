"""Opening containers safely with PyAV, and reading good frames out of damaged ones."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from hermes_lab.errors import VideoError
from hermes_lab.video.shown import shown, without_password
from hermes_lab.video.source import Limits
from hermes_lab.video.stamps import Stamps, seconds

FILE_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,mxf,nut,"
    "ivf,h264,hevc,m4v,obu,dv,gif,apng,yuv4mpegpipe,mjpeg,jpeg_pipe,rm,wtv,mp3,wav,flac,aac"
)
"""Demuxers that read one file and nothing beside it: no playlists, no concatenation, no devices.
The audio formats are among them so that an audio file is called one; `jpeg_pipe` is raw Motion JPEG."""

FAULTS = (FFmpegError, OSError, ValueError, OverflowError, LookupError, MemoryError, RuntimeError)
"""What PyAV raises over a broken input: FFmpeg's own errors, and Python's where the input cannot be put
into Python's terms (text that is not UTF-8, numbers out of range, pixel formats without a name)."""

URL_PROTOCOLS = "http,https,tls,tcp,udp,rtp,srtp,rtsp,rtsps,rtmp,rtmps,crypto,data"
"""What a URL may lead to; `file` is not among them, so that no remote playlist reads this disk."""


def open_file(path: Path, limits: Limits) -> InputContainer:
    """Open a video file so that nothing but that file is read, whatever it contains.

    Raises:
        VideoError: it is missing, unreadable, empty, cut off before its index, or no video.
    """
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise VideoError(f"{shown(path)} cannot be read: {error.strerror}.") from error
    if size_bytes == 0:
        raise VideoError(f"{shown(path)} is empty (0 bytes): copy or export it again.")
    limits.check_bytes(shown(path.name), size_bytes)
    options = {"protocol_whitelist": "file", "format_whitelist": FILE_FORMATS}
    try:
        return av.open(
            f"file:{os.path.abspath(path)}", mode="r", options=options, metadata_errors="replace"
        )
    except PermissionError as error:
        raise VideoError(f"{shown(path)} cannot be read: permission denied.") from error
    except FAULTS as error:
        raise VideoError(_not_a_video(path, error)) from error


def open_url(url: str, timeout_s: float) -> InputContainer:
    """Open an RTSP, RTMP or HTTP(S) stream; every network wait ends after `timeout_s`.

    Raises:
        VideoError: it cannot be reached in time, is refused, or is no video.
    """
    options = {"protocol_whitelist": URL_PROTOCOLS}
    if url.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    began = time.monotonic()
    try:
        return av.open(
            url,
            mode="r",
            options=options,
            timeout=(timeout_s, timeout_s),
            metadata_errors="replace",
        )
    except FAULTS as error:
        late = isinstance(error, ExitError) or time.monotonic() - began >= timeout_s
        why = f"no answer within {timeout_s:g} s" if late else reason(error)
        raise VideoError(
            f"{without_password(url)} cannot be opened: {why}; check the address and that the "
            "stream is running."
        ) from None  # FFmpeg's own error holds the address with its password


@contextmanager
def decoding(name: str) -> Generator[None]:
    """A block in which whatever the decoder stumbles over becomes a `VideoError`."""
    try:
        yield
    except FAULTS as error:
        raise VideoError(
            f"{name} cannot be decoded ({reason(error)}): export it again."
        ) from None  # FFmpeg's own error may hold an address with its password


def video_stream(container: InputContainer, name: str, limits: Limits) -> VideoStream:
    """Choose the video stream and switch the others off; cover pictures do not count as video.

    Raises:
        VideoError: there is none, it cannot be decoded here, or its frames are above the limit.
    """
    streams = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
    if not streams:
        held = sorted({s.type for s in container.streams}) or ["nothing"]
        raise VideoError(
            f"{name} has no video stream (it holds {' and '.join(held)}): give a file with pictures."
        )
    best = container.streams.best("video")
    stream = next((s for s in streams if s is best), streams[0])
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    # PyAV leaves the context out where FFmpeg has no decoder, against its own stub.
    if stream.codec_context is None:  # pyright: ignore[reportUnnecessaryComparison]
        raise VideoError(
            f"The video in {name} uses a codec that this build of FFmpeg cannot decode: "
            "re-encode it as H.264."
        )
    if limits.max_pixels is not None:
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
    return stream


class Stamped(NamedTuple):
    """A good frame and when it is shown by the stream's own clock (None where nothing tells)."""

    raw_s: float | None
    frame: VideoFrame


@dataclass(frozen=True)
class Damage:
    """Where decoding failed, in the stream's own clock if it is known, and why."""

    raw_s: float | None
    why: str


def frames_and_damage(
    container: InputContainer,
    stream: VideoStream,
    packets: Iterator[Packet[VideoStream]] | None = None,
) -> Generator[VideoFrame | Damage]:
    """Yield decoded frames in presentation order, and a `Damage` where one is missing or broken.

    `packets` are those of the stream (None: demultiplexed here). After a `Damage` the caller may stop or go on; the generator ends at the end of the input.
    """
    # MPEG-TS marks whole packets at every seam of a recording: there the decoder has the say.
    marks_mean_damage = "mpegts" not in container.format.name
    packets = container.demux(stream) if packets is None else packets
    while True:
        try:
            packet = next(packets, None)
        except IndexError:
            # PyAV stumbles over streams that turned up on the way, when ours has come to its end.
            return
        except FAULTS as error:
            yield Damage(None, reason(error))
            return
        if packet is None:
            return
        if packet.is_corrupt and marks_mean_damage:
            yield Damage(seconds(packet.pts, packet.time_base), "the data of a frame is incomplete")
            continue
        try:
            frames = packet.decode()
        except FAULTS as error:
            yield Damage(seconds(packet.pts, packet.time_base), reason(error))
            continue
        for frame in frames:
            if frame.is_corrupt:
                yield Damage(seconds(frame.pts, frame.time_base), "a frame is damaged")
            else:
                yield frame


def frames_until_damage(
    container: InputContainer, stream: VideoStream, stamps: Stamps
) -> Generator[Stamped | Damage]:
    """Yield good frames in presentation order with their stamps, then the first `Damage`, and end.

    Frames that wait in the decoder to be put in order and are shown before the damage come out too;
    where only decoding times are known, all that wait. Damage ahead of the first good frame is
    yielded and passed over.
    """
    last_s: float | None = None
    found = False
    for entry in frames_and_damage(container, stream):
        if isinstance(entry, VideoFrame):
            last_s, found = stamps.raw_s(entry), True
            yield Stamped(last_s, entry)
            continue
        # Where the clock starts over (joined recordings), earlier does not mean before.
        starts_over = entry.raw_s is not None and last_s is not None and entry.raw_s <= last_s
        broken_s = None if starts_over or stamps.by_dts else entry.raw_s
        for frame in _held_back(stream, broken_s):
            found = True
            yield Stamped(stamps.raw_s(frame), frame)
        yield Damage(broken_s, entry.why)
        if found:
            return


def _held_back(stream: VideoStream, before_s: float | None) -> list[VideoFrame]:
    """Empty the decoder of the frames that wait to be put in order, and keep the good ones shown
    before `before_s` (None keeps all). The decoder starts afresh afterwards."""
    try:
        waiting = stream.decode(None)
    except FAULTS:
        waiting = []
    stream.codec_context.flush_buffers()
    kept: list[VideoFrame] = []
    for frame in waiting:
        frame.time_base = frame.time_base or stream.time_base
        time_s = seconds(frame.pts, frame.time_base)
        if not frame.is_corrupt and (before_s is None or time_s is None or time_s < before_s):
            kept.append(frame)
    return kept


def reason(error: BaseException) -> str:
    """What went wrong in FFmpeg's or the system's words, without addresses or paths."""
    if isinstance(error, ExitError):
        return "no data arrived in time"
    words = error.strerror if isinstance(error, (FFmpegError, OSError)) else None
    return words or type(error).__name__


def _not_a_video(path: Path, error: BaseException) -> str:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        head = b""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return (
            f"{shown(path)} is an MP4 or MOV file whose index is missing or damaged ({reason(error)}): it was "
            "probably cut off while it was written or copied, so export it again or copy it anew."
        )
    return (
        f"{shown(path)} is not a video that can be read ({reason(error)}): give an MP4, MOV, MKV, WebM, AVI "
        "or MPEG file, or a folder of images."
    )
