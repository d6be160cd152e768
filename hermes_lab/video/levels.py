"""Pillow images of every kind as 8-bit RGB: deep ones are scaled, transparent ones laid on white."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hermes_lab.video.picture import Picture, on_white

T = TypeVar("T")

_FULL_SCALES = (1.0, *(float(2**bits - 1) for bits in (8, 10, 12, 14, 16, 24, 31)))
"""What white is in pictures that use their whole range: 1 for fractions, else the depth of a sensor."""

_LEAST_SHARE = 0.4
"""Pictures that use less of the scale would keep fewer than a hundred levels: their range is stretched."""

_PICTURES_TO_LEARN_FROM = 100


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has more than 8 bits (16-bit grey, 32-bit integers, floating point)."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def spread(pictures: Sequence[T]) -> list[T]:
    """At most a hundred of the pictures, evenly spread, to learn their range from."""
    return list(pictures[:: math.ceil(len(pictures) / _PICTURES_TO_LEARN_FROM) or 1])


class Levels:
    """The scale from deep pictures to 8 bits, one for a whole source, so that frames compare.

    It is learnt from the pictures that `learn` is shown, or else from the first deep one that is
    converted; brighter and darker ones after that are clipped. Black stays zero and white the full
    scale (1, 255, 1023, 4095, 16383, 65535, ...) where that leaves a hundred levels; pictures that use
    less of it (thermal ones, say) are stretched from their least value to their greatest.
    """

    def __init__(self) -> None:
        self._low = math.inf
        self._high = -math.inf
        self._fractions = False
        self.scale: tuple[float, float] | None = None

    def learn(self, images: Iterable[Image.Image]) -> None:
        """Take the range of these pictures for the scale."""
        for image in images:
            if is_deep(image):
                self._see(image)

    def rgb(self, image: Image.Image) -> Picture:
        """A picture as uint8 [height, width, 3] RGB."""
        if not is_deep(image):
            if image.has_transparency_data:
                return on_white(np.asarray(image.convert("RGBA")))
            return np.asarray(image.convert("RGB"))
        if self._low >= self._high:  # nothing was seen yet, or one shade
            self._see(image)
        low, high = self.scale or (0.0, 1.0)
        shares = (np.nan_to_num(_values(image), nan=low) - low) / (high - low)
        grey = np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)

    def note(self, name: str) -> str | None:
        """One sentence on the scale; None where nothing was scaled."""
        if self.scale is None:
            return None
        low, high = self.scale
        return f"The pictures of {name} have more than 8 bits: {low:g} to {high:g} became 0 to 255."

    def _see(self, image: Image.Image) -> None:
        values = _values(image)
        finite = values[np.isfinite(values)]
        if not finite.size:
            return
        self._low = min(self._low, float(finite.min()))
        self._high = max(self._high, float(finite.max()))
        self._fractions = self._fractions or image.mode == "F"
        scales = _FULL_SCALES if self._fractions else _FULL_SCALES[1:]
        white = next((scale for scale in scales if self._high <= scale), self._high)
        used = self._high - self._low
        if self._low >= 0 and (not used or used >= _LEAST_SHARE * white):
            self.scale = 0.0, white
        else:
            self.scale = self._low, self._low + (used or 1.0)


def _values(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image).astype(np.float64)
