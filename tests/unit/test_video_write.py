"""Writing clips: what is written comes back, and a failure leaves nothing half-written."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hermes_lab import video
from hermes_lab.errors import VideoError
from tests.clips import HEIGHT, WIDTH, number_of, numbered


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "m4v"])
@pytest.mark.parametrize("fps", [1, 12.5, 29.97, Fraction(30000, 1001)], ids=str)
def test_what_is_written_comes_back(tmp_path: Path, suffix: str, fps: float) -> None:
    path = video.write(tmp_path / f"clip.{suffix}", map(numbered, range(20)), fps)
    source = video.open(path, fps=None)
    frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(20))
    assert [f.time_s for f in frames] == pytest.approx(
        [n / float(fps) for n in range(20)], abs=2e-3
    )
    assert source.damage is None
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_colours_survive(tmp_path: Path) -> None:
    colours = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128)])
    image = np.repeat(np.repeat(colours[None], 32, 0), 32, 1).astype(np.uint8)
    path = video.write(tmp_path / "clip.mp4", [image] * 3, 1, crf=1)
    back = next(iter(video.open(path))).image
    centres = back[16, 16::32].astype(int)
    assert np.abs(centres - colours).max() <= 6


def test_pictures_of_every_kind_and_odd_sizes(tmp_path: Path) -> None:
    odd = np.ascontiguousarray(numbered(3)[:, :-1])
    pictures = [odd, Image.fromarray(odd), video.Frame(odd, 0, 0.0)]
    path = video.write(tmp_path / "clip.mp4", pictures, 1)
    frames = list(video.open(path))
    assert [frame.image.shape for frame in frames] == [(HEIGHT, WIDTH, 3)] * 3
    assert [number_of(frame.image) for frame in frames] == [3, 3, 3]


def test_a_clip_can_be_written_from_a_source(tmp_path: Path) -> None:
    first = video.write(tmp_path / "a.mp4", map(numbered, range(30)), 10)
    second = video.write(tmp_path / "b.mp4", video.open(first, fps=2), 2)
    assert [number_of(f.image) for f in video.open(second, fps=None)] == [0, 5, 10, 15, 20, 25]


@pytest.mark.parametrize(
    ("name", "pictures", "fps", "message"),
    [
        ("a.mp4", [], 1, "There are no frames to write"),
        ("a.mp4", [numbered(0)], 0, "fps is 0"),
        ("a.mp4", [numbered(0)], float("nan"), "fps is nan"),
        ("a.gif", [numbered(0)], 1, r"a.gif cannot be written: name it .mp4"),
        ("a.mp4", [numbered(0), numbered(0, 64)], 1, "Frame 1 is 128 x 64 and the first one is"),
        ("a.mp4", [np.zeros((8, 8), np.uint8)], 1, "frame 0 to write is uint8"),
        ("no/a.mp4", [numbered(0)], 1, "cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, name: str, pictures: list[np.ndarray], fps: float, message: str
) -> None:
    with pytest.raises(VideoError, match=message):
        video.write(tmp_path / name, pictures, fps)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = video.write(tmp_path / "clip.mp4", [numbered(1)] * 3, 1)
    before = path.read_bytes()

    def breaks_off() -> Iterator[np.ndarray]:
        yield numbered(2)
        raise RuntimeError("the world ended")

    with pytest.raises(RuntimeError, match="the world ended"):
        video.write(path, breaks_off(), 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()
    with pytest.raises(VideoError, match="cannot be written"):
        video.write(tmp_path / "clip.mp4", [numbered(1)], 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    a = video.write(tmp_path / "a.mp4", map(numbered, range(12)), 5)
    b = video.write(tmp_path / "b.mp4", map(numbered, range(12)), 5)
    assert a.read_bytes() == b.read_bytes()
