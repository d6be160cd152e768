"""Video of high dynamic range: it comes out as the ordinary video of the same pictures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc

from hermes_lab import video
from hermes_lab.video.hdr import hdr_kind
from tests.clips import constant_rate

TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
KINDS = {"PQ": ColorTrc.SMPTE2084, "HLG": ColorTrc.ARIB_STD_B67}


def pq(light: np.ndarray) -> np.ndarray:
    """Code values of light in units of white paper (203 nits), after SMPTE ST 2084."""
    power = (light * 203 / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def hlg(light: np.ndarray) -> np.ndarray:
    """Code values of such light on a screen of 1000 nits, after ITU-R BT.2100."""
    display = light * 203 / 1000
    luminance = (display @ [0.2627, 0.6780, 0.0593])[..., None]
    scene = display * np.maximum(luminance, 1e-9) ** (1 / 1.2 - 1)
    bright = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), bright)


def hdr_clip(path: Path, ordinary: np.ndarray, kind: str, brighter: float = 1.0) -> Path:
    """A picture of ordinary code values as 10-bit video of high dynamic range."""
    light = brighter * (ordinary / 255) ** 2.4 @ TO_BT2020.T
    codes = np.rint(65535 * (pq if kind == "PQ" else hlg)(light)).clip(0, 65535).astype(np.uint16)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=5, options={"x265-params": "log-level=none"})
        stream.height, stream.width = ordinary.shape[:2]
        stream.pix_fmt = "yuv444p10le"
        context = stream.codec_context
        context.options = {"crf": "4", "x265-params": "log-level=none"}
        context.color_trc = KINDS[kind]
        context.color_primaries = ColorPrimaries.BT2020
        context.colorspace = Colorspace.BT2020
        frame = av.VideoFrame.from_ndarray(codes, format="rgb48le")
        for tick in range(3):
            stored = frame.reformat(format="yuv444p10le", dst_colorspace=Colorspace.BT2020)
            stored.pts, stored.time_base = tick, Fraction(1, 5)
            container.mux(stream.encode(stored))
        container.mux(stream.encode(None))
    return path


def patches() -> np.ndarray:
    """64 flat patches, 16 pixels wide, of every colour and brightness."""
    dice = np.random.default_rng(0)
    colours = dice.integers(0, 226, (8, 8, 3)).astype(np.uint8)
    colours[0] = np.linspace(0, 225, 8)[:, None]
    return colours.repeat(16, axis=0).repeat(16, axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pictures_are_those_of_ordinary_video(tmp_path: Path, kind: str) -> None:
    ordinary = patches()
    source = video.open(hdr_clip(tmp_path / "a.mp4", ordinary, kind), fps=None)
    images = [frame.image for frame in source]
    assert len(images) == 3
    off = np.abs(images[0].astype(int) - ordinary)[4::8, 4::8]
    assert off.mean() < 3 and np.percentile(off, 95) < 12
    assert source.notes == (
        f"a.mp4 has a high dynamic range ({kind}): its frames are mapped to that of ordinary video.",
    )
    small = next(iter(video.open(tmp_path / "a.mp4", max_side_px=8))).image
    assert small.shape == (8, 8, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_brighter_than_paper_is_squeezed_and_keeps_its_order(
    tmp_path: Path, kind: str
) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 64)[None, :, None], (16, 64, 3)).astype(np.uint8)
    (image, *_) = (f.image for f in video.open(hdr_clip(tmp_path / "a.mp4", ramp, kind, 4.0)))
    row = image[8, :, 1].astype(int)
    assert (np.diff(row) >= -1).all()
    assert row[0] <= 2 and row[-1] >= 252
    assert np.ptp(image.astype(int), axis=-1).max() < 8


def test_ordinary_video_is_left_alone(tmp_path: Path) -> None:
    source = video.open(constant_rate(tmp_path / "a.mp4", 3, 1))
    assert len(list(source)) == 3 and source.notes == ()
    assert hdr_kind(None) is None and hdr_kind(int(ColorTrc.BT709)) is None
