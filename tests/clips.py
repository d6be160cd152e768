"""Small synthetic clips whose frames carry their number as a bar code, for the tests of frame sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

BITS = 8
CELL_PX = 16
WIDTH, HEIGHT = BITS * CELL_PX, 2 * CELL_PX


def numbered(number: int, height: int = HEIGHT) -> NDArray[np.uint8]:
    """A picture whose columns spell `number` in black and white, the highest bit leftmost."""
    bits = [(number >> bit) & 1 for bit in reversed(range(BITS))]
    row = np.repeat(np.array(bits, dtype=np.uint8) * 255, CELL_PX)
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (height, WIDTH, 3)))


def number_of(image: NDArray[np.uint8]) -> int:
    """Read the bar code of an upright picture of any size back."""
    centres = (np.arange(BITS) + 0.5) * image.shape[1] / BITS
    bits = image[image.shape[0] // 2, centres.astype(int), 1] > 127
    return int(sum(int(bit) << place for place, bit in enumerate(reversed(bits))))


def write_clip(
    path: Path,
    pts: Sequence[int],
    time_base: Fraction,
    *,
    rate: Fraction | int = 25,
    codec: str = "libx264",
    pictures: Sequence[NDArray[np.uint8]] | None = None,
    options: Mapping[str, str] | None = None,
    muxing: Mapping[str, str] | None = None,
    rotation: float | None = None,
    mirrored: bool = False,
    pixel_aspect: Fraction | None = None,
    sound: bool = False,
    title: str | None = None,
) -> Path:
    """Write frame n of `pictures` (bar codes 0, 1, 2, ... if None) shown at `pts[n] * time_base` s."""
    shown = [numbered(n) for n in range(len(pts))] if pictures is None else pictures
    with av.open(str(path), "w", options=dict(muxing or {})) as container:
        if title is not None:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = shown[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base
        stream.time_base = time_base
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirrored)
        if sound:
            _add_sound(container, seconds=1 + float(pts[-1] * time_base))
        for tick, picture in zip(pts, shown, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = tick, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _add_sound(container: av.container.OutputContainer, seconds: float) -> None:
    stream = container.add_stream("aac", rate=16_000, layout="mono")
    samples = np.zeros((1, 1024), dtype=np.float32)
    for block in range(int(seconds * 16_000 / 1024)):
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, block * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def write_sound(path: Path) -> Path:
    """A file that holds sound and nothing else."""
    with av.open(str(path), "w") as container:
        _add_sound(container, seconds=1)
    return path


def constant_rate(path: Path, frames: int, rate: Fraction | int, **settings: object) -> Path:
    """A clip of bar codes 0 .. frames - 1 at a constant rate."""
    rate = Fraction(rate)
    return write_clip(path, range(frames), 1 / rate, rate=rate, **settings)  # type: ignore[arg-type]


def copied(source: Path, target: Path) -> Path:
    """Copy the packets of a clip into another container with decoding times as presentation times.

    This is what becomes of an AVI that is remuxed: it holds no presentation times to copy.
    """
    with av.open(str(source)) as original, av.open(str(target), "w") as copy:
        packets = original.streams.video[0]
        stream = copy.add_stream_from_template(packets)
        for packet in original.demux(packets):
            if packet.dts is not None:
                packet.pts = packet.dts
                packet.stream = stream
                copy.mux(packet)
    return target
