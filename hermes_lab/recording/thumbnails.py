"""Small pictures of the frames, so that a recording can be shown without its video."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hermes_lab.recording.parts import Array, Part

MAX_SIDE_PIXELS = 160
JPEG_QUALITY = 80

Picture = npt.NDArray[np.uint8]


def encode_thumbnails(
    frames: Sequence[int], pictures: Sequence[npt.NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """JPEGs of RGB frames, uint8 [height, width, 3], none larger than 160 pixels.

    Raises:
        ValueError: a picture is missing or is not uint8 RGB.
    """
    from PIL import Image  # kept out of the way of processes that only read numbers

    if len(frames) != len(pictures):
        raise ValueError(f"there are {len(pictures)} thumbnails for {len(frames)} frames")
    jpegs: list[bytes] = []
    for picture in pictures:
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
            raise ValueError(
                f"a thumbnail must be uint8 [height, width, 3], got {picture.dtype} {picture.shape}"
            )
        image = Image.fromarray(np.ascontiguousarray(picture))
        image.thumbnail(
            (MAX_SIDE_PIXELS, MAX_SIDE_PIXELS), Image.Resampling.BILINEAR, reducing_gap=2.0
        )
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
        jpegs.append(buffer.getvalue())
    offsets = np.cumsum([0, *(len(jpeg) for jpeg in jpegs)])
    return {"frames": list(frames)}, {
        "jpeg": np.frombuffer(b"".join(jpegs), np.uint8),
        "offsets": offsets.astype(np.int32),
    }


def decode_thumbnail(part: Part, frame: int) -> Picture:
    """One frame's picture, uint8 [height, width, 3]."""
    from PIL import Image

    index = part.record["frames"].index(frame)
    jpeg, offsets = part.read("jpeg", "offsets")
    data = jpeg[offsets[index] : offsets[index + 1]].tobytes()
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        if max(image.size) > MAX_SIDE_PIXELS:
            raise ValueError(f"a thumbnail of {image.width} x {image.height} pixels")
        return np.asarray(image.convert("RGB"))
