"""Writing frames to a video file, whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace

from hermes_lab.errors import VideoError
from hermes_lab.files import replacing
from hermes_lab.processes import sweep
from hermes_lab.video.arrays import PictureLike, as_rgb
from hermes_lab.video.demux import reason
from hermes_lab.video.levels import Levels
from hermes_lab.video.picture import Picture

_MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}


def write(
    path: str | os.PathLike[str],
    frames: Iterable[PictureLike],
    fps: float | Fraction,
    *,
    crf: int = 18,
) -> Path:
    """Encode frames as H.264 at a constant `fps` into an MP4, MOV or MKV file (by its suffix).

    `frames` are uint8 [height, width, 3] RGB arrays, PIL images or `Frame`s, all of one size. H.264
    stores even sizes only: an odd side is extended by repeating its last row or column. `crf` is
    x264's quality (0 lossless in the encoder, 18 visually clean, 51 worst). The file is written
    beside `path` and renamed into place, so that an old file survives a failure.

    Raises:
        VideoError: no frames, frames of several sizes, a bad `fps` or suffix, or a failed write.
    """
    target = Path(path)
    if not (math.isfinite(fps) and fps > 0):
        raise VideoError(f"fps is {fps}: give a positive number of frames per second.")
    muxer = _MUXERS.get(target.suffix.lower())
    if muxer is None:
        raise VideoError(f"{target} cannot be written: name it {', '.join(_MUXERS)}.")
    sweep(target)
    options = {"movflags": "+faststart"} if muxer != "matroska" else {}
    try:
        with (
            replacing(target, durable=False, tidy=False) as part,
            closing(av.open(os.fspath(part), mode="w", format=muxer, options=options)) as container,
        ):
            _encode(container, frames, Fraction(fps).limit_denominator(100_000), crf)
    except (FFmpegError, OSError) as error:
        raise VideoError(f"{target} cannot be written: {reason(error)}.") from error
    return target


def _encode(
    container: OutputContainer, frames: Iterable[PictureLike], rate: Fraction, crf: int
) -> None:
    stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
    stream.pix_fmt = "yuv420p"
    stream.codec_context.colorspace = Colorspace.ITU601
    shape: tuple[int, ...] | None = None
    levels = Levels()
    for number, given in enumerate(frames):
        image = as_rgb(given, f"frame {number} to write", levels)
        if shape is None:
            shape = image.shape
            even = _even(image)
            stream.width, stream.height = even.shape[1], even.shape[0]
        if image.shape != shape:
            raise VideoError(
                f"Frame {number} is {image.shape[1]} x {image.shape[0]} and the first one is "
                f"{shape[1]} x {shape[0]}: give frames of one size."
            )
        picture = VideoFrame.from_ndarray(_even(image), format="rgb24")
        container.mux(stream.encode(picture))
    if shape is None:
        raise VideoError("There are no frames to write: give at least one.")
    container.mux(stream.encode(None))


def _even(image: Picture) -> Picture:
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded)
