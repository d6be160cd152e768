"""Pictures of a running stream's frames: small, and in a bounded number of bytes however long the stream is."""

from __future__ import annotations

import io
import threading

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.uint8]
HIGH_PX = 184
WIDE_PX = 4 * HIGH_PX
"""Nothing that is drawn is larger: a tile of the filmstrip has half of this height, for screens of twice the pixels."""
HISTORY_BYTES = 64 * 2**20
"""About an hour and a half of film at one frame a second, and days of drawn worlds."""
_QUALITY = 90


class Pictures:
    """What `add` was given, by frame; the oldest go when all of them together take more than `limit_bytes`.

    One thread may add while others look.
    """

    def __init__(self, limit_bytes: int = HISTORY_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._lock = threading.Lock()
        self._jpegs: dict[int, bytes] = {}

    def add(self, frame: int, image: Picture) -> None:
        """Keep a frame's picture, uint8 [height, width, 3], at the size at which pages draw it."""
        jpeg = to_jpeg(image, _QUALITY)
        with self._lock:
            self.size_bytes += len(jpeg) - len(self._jpegs.pop(frame, b""))
            self._jpegs[frame] = jpeg
            while self.size_bytes > self.limit_bytes and len(self._jpegs) > 1:
                self.size_bytes -= len(self._jpegs.pop(next(iter(self._jpegs))))

    def get(self, frame: int) -> Picture | None:
        """The frame's picture; None where there never was one, or where it is too long ago."""
        with self._lock:
            jpeg = self._jpegs.get(frame)
        if jpeg is None:
            return None
        with Image.open(io.BytesIO(jpeg)) as image:
            return np.asarray(image.convert("RGB"))


def to_jpeg(image: Picture, quality: int) -> bytes:
    """A picture as JPEG, made smaller where it is larger than any page draws it."""
    small = Image.fromarray(np.ascontiguousarray(image))
    small.thumbnail((WIDE_PX, HIGH_PX), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=quality)
    return out.getvalue()
