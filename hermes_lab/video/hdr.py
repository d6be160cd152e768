"""Frames of high dynamic range (PQ, HLG) brought to the range of ordinary video.

Their code values say how bright a point is on a screen of up to 10,000 nits. Read as if they were ordinary
ones they give flat, dark pictures, which no model was trained on. References: SMPTE ST 2084 (PQ), ITU-R
BT.2100 (HLG), BT.2087 (colours), BT.2408 (203 nits for white paper), BT.1886 (ordinary screens).
"""

from __future__ import annotations

from functools import cache
from typing import cast

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc
from numpy.typing import NDArray

_KINDS = {int(ColorTrc.SMPTE2084): "PQ", int(ColorTrc.ARIB_STD_B67): "HLG"}
_WHITE_NITS = 203.0
_HLG_PEAK_NITS = 1000.0
_HLG_GAMMA = 1.2
_KNEE = 0.8
"""Up to this share of white, brightness is kept; what is above is squeezed into the rest."""
_SCREEN_GAMMA = 2.4
_ROWS = 128
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
_FROM_BT2020 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def hdr_kind(color_trc: int | None) -> str | None:
    """ "PQ" or "HLG" for the transfer characteristic of such a video; None for ordinary ones."""
    return None if color_trc is None else _KINDS.get(int(color_trc))


def hdr_note(name: str, kind: str) -> str:
    """One sentence that says what is done to the frames."""
    return f"{name} has a high dynamic range ({kind}): its frames are mapped to that of ordinary video."


def tone_mapped(frame: VideoFrame, kind: str) -> NDArray[np.uint8]:
    """What a frame in rgb48le shows, as ordinary uint8 [height, width, 3] RGB; `kind` is PQ or HLG."""
    codes = cast("NDArray[np.uint16]", frame.to_ndarray())
    narrow = frame.color_primaries not in (ColorPrimaries.BT2020, ColorPrimaries.UNSPECIFIED)
    shown = np.empty(codes.shape, np.uint8)
    for top in range(0, len(codes), _ROWS):
        shown[top : top + _ROWS] = _mapped(codes[top : top + _ROWS], kind, wide=not narrow)
    return shown


def _mapped(codes: NDArray[np.uint16], kind: str, *, wide: bool) -> NDArray[np.uint8]:
    """Some rows of a picture; `wide` says that its colours are those of BT.2020."""
    light = _light(kind)[codes]
    if kind == "HLG":  # what the scene emits becomes what a screen of 1000 nits shows
        luminance = (light @ _LUMINANCE)[..., None]
        light = light * luminance ** (_HLG_GAMMA - 1) * (_HLG_PEAK_NITS / _WHITE_NITS)
    if wide:
        light = light @ _FROM_BT2020.T
    light = np.maximum(light, 0)
    brightest = light.max(axis=-1, keepdims=True)
    above = np.maximum(brightest - _KNEE, 0) / (1 - _KNEE)
    squeezed = np.minimum(brightest, _KNEE) + (1 - _KNEE) * (1 - np.exp(-above))
    light = light * (squeezed / np.maximum(brightest, 1e-6))
    return np.rint(255 * light ** (1 / _SCREEN_GAMMA)).astype(np.uint8)


@cache
def _light(kind: str) -> NDArray[np.float32]:
    """Linear light of every 16-bit code: white paper is 1 in PQ, the brightest scene 1 in HLG."""
    code = np.arange(65536) / 65535
    if kind == "PQ":
        root = code ** (1 / 78.84375)
        share = np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)
        light = share ** (1 / 0.1593017578125) * (10_000 / _WHITE_NITS)
    else:
        bright = (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(code <= 0.5, code**2 / 3, bright)
    return light.astype(np.float32)
