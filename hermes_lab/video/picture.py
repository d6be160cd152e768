"""From a decoded frame to upright RGB with square pixels: display matrix, pixel aspect, size."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from hermes_lab.video.hdr import hdr_kind, tone_mapped

Picture = NDArray[np.uint8]

_WIDEST_PIXEL = 4
"""Pixel aspect ratios beyond 4:1 are taken for header damage and ignored."""


def upright(
    frame: VideoFrame, *, max_side_px: int | None, pixel_aspect: Fraction | None
) -> Picture:
    """Turn a decoded frame into contiguous uint8 [height, width, 3] RGB as a player would show it.

    `pixel_aspect` is the width of a stored pixel over its height: the short side is stretched until
    pixels are square (pass None to keep the stored grid). A longer side above `max_side_px` is
    scaled down by area averaging; nothing is ever enlarged by it. The display matrix is applied to
    the nearest quarter turn, mirroring included. Transparent parts are laid on white, and a high dynamic
    range is mapped to that of ordinary video. Interlaced frames are left interlaced.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components):
        rgba = cast("Picture", frame.reformat(format="rgba", threads=1).to_ndarray())
        opaque = on_white(rgba)
        frame = VideoFrame.from_ndarray(opaque, format="rgb24")
    width, height = _displayed_size(frame.width, frame.height, pixel_aspect)
    width, height = fitted(width, height, max_side_px)
    resized = (width, height) != (frame.width, frame.height)
    kind = hdr_kind(frame.color_trc)
    rgb = frame.reformat(
        width=width,
        height=height,
        format="rgb24" if kind is None else "rgb48le",
        interpolation="AREA" if resized else None,
        threads=1,
    )
    image = cast("Picture", rgb.to_ndarray()) if kind is None else tone_mapped(rgb, kind)
    if matrix is not None:
        image = oriented(image, np.frombuffer(bytes(matrix), dtype=np.int32).tolist())
    return np.ascontiguousarray(image)


def on_white(image: Picture) -> Picture:
    """Lay an RGBA picture [height, width, 4] on white, as a page does; its alpha is not premultiplied."""
    alpha = image[..., 3:].astype(np.uint16)
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(image[..., :3])
    mixed = image[..., :3] * alpha + 255 * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def oriented(image: Picture, matrix: Sequence[int]) -> Picture:
    """Apply a display matrix, whose nine numbers send a stored point (x, y) to
    (m[0] x + m[3] y, m[1] x + m[4] y) (ISO/IEC 14496-12, 6.2.2), to the nearest quarter turn."""
    if abs(matrix[0]) >= abs(matrix[1]):
        mirrored_x, mirrored_y = matrix[0] < 0, matrix[4] < 0
    else:
        image = image.transpose(1, 0, 2)
        mirrored_x, mirrored_y = matrix[3] < 0, matrix[1] < 0
    return image[:: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1]


def fitted(width: int, height: int, max_side_px: int | None) -> tuple[int, int]:
    """The size with the same shape whose longer side is at most `max_side_px` pixels."""
    longer = max(width, height)
    if max_side_px is None or longer <= max_side_px:
        return width, height
    return max(1, round(width * max_side_px / longer)), max(1, round(height * max_side_px / longer))


def shrunk(image: Picture, max_side_px: int | None) -> Picture:
    """Scale a picture down by area averaging until its longer side is at most `max_side_px`."""
    height, width = image.shape[:2]
    size = fitted(width, height, max_side_px)
    if size == (width, height):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def letterbox(image: Picture, size: tuple[int, ...]) -> Picture:
    """Fit a picture inside [height, width] without changing its shape, centred on black."""
    if image.shape[:2] == size:
        return image
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height = max(1, min(size[0], round(image.shape[0] * scale)))
    width = max(1, min(size[1], round(image.shape[1] * scale)))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    inner = np.asarray(Image.fromarray(image).resize((width, height), method))
    canvas = np.zeros((*size, 3), dtype=np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas[top : top + height, left : left + width] = inner
    return canvas


def _displayed_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    if not pixel_aspect or pixel_aspect == 1:
        return width, height
    if not 1 / _WIDEST_PIXEL <= pixel_aspect <= _WIDEST_PIXEL:
        return width, height
    if pixel_aspect > 1:
        return round(width * pixel_aspect), height
    return width, round(height / pixel_aspect)
