"""Folders, arrays, worlds and cameras by name: what a source string means and what comes out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hermes_lab import video
from hermes_lab.errors import LabError, VideoError
from hermes_lab.video import Limits, camera
from hermes_lab.video.folder import natural_key
from hermes_lab.worlds import World
from tests.clips import constant_rate, number_of, numbered


def grey(level: int, height: int = 8, width: int = 12) -> np.ndarray:
    return np.full((height, width, 3), level, dtype=np.uint8)


def levels(source: video.FrameSource) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in source]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve grey images f1.png .. f12.png of level 10 n, among things that are no images."""
    place = tmp_path / "shots"
    place.mkdir()
    for n in range(1, 13):
        Image.fromarray(grey(10 * n)).save(place / f"f{n}.png")
    (place / "notes.txt").write_text("no image")
    (place / ".hidden.png").write_bytes(b"no image either")
    (place / "f99.png.d").mkdir()
    return place


def test_a_folder_streams_in_natural_order(folder: Path) -> None:
    source = video.open(folder, fps=4)
    frames = list(source)
    assert [int(f.image[0, 0, 0]) for f in frames] == [10 * n for n in range(1, 13)]
    assert [f.time_s for f in frames] == [n / 4 for n in range(12)]
    assert (source.name, source.kind, source.is_live) == ("shots", "folder", False)
    assert (source.duration_s, source.estimated_frames) == (3.0, 12)
    assert [f.time_s for f in video.open(str(folder), fps=None)] == list(range(12))
    late = video.open(folder, fps=4, start_s=1.0, max_frames=3)
    assert (levels(late), late.estimated_frames) == ([50, 60, 70], 3)


def test_a_folders_hash_follows_names_and_contents(folder: Path) -> None:
    before = video.open(folder).sha256()
    assert before == video.open(folder, fps=3).sha256()
    (folder / "f3.png").rename(folder / "f30.png")
    renamed = video.open(folder).sha256()
    Image.fromarray(grey(11)).save(folder / "f1.png")
    assert len({before, renamed, video.open(folder).sha256()}) == 3


@given(st.lists(st.integers(0, 10**6), unique=True), st.randoms())
def test_natural_order_is_the_order_of_the_numbers(numbers: list[int], dice: object) -> None:
    names = [f"Frame {n} (left).JPG" for n in numbers]
    dice.shuffle(names)  # type: ignore[attr-defined]
    ordered = [f"Frame {n} (left).JPG" for n in sorted(numbers)]
    assert sorted(names, key=natural_key) == ordered


def test_natural_order_of_mixed_names() -> None:
    names = ["b1", "a10", "A9", "10", "9", "a", "009", "²"]
    assert sorted(names, key=natural_key) == ["009", "9", "10", "a", "A9", "a10", "b1", "²"]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"holds no images: put \.bmp, .* files in it"):
        video.open(tmp_path)


def test_a_broken_image_ends_the_stream_and_is_named(folder: Path) -> None:
    whole = (folder / "f7.png").read_bytes()
    (folder / "f7.png").write_bytes(whole[: len(whole) // 2])
    source = video.open(folder)
    assert levels(source) == [10, 20, 30, 40, 50, 60]
    assert source.damage is not None and "f7.png cannot be read as an image" in source.damage
    (folder / "f1.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"f1.png cannot be read as an image"):
        list(video.open(folder))


def test_the_cameras_orientation_note_is_applied(tmp_path: Path) -> None:
    image = grey(0)
    image[:, 6:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn a quarter clockwise to show it
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    shown = next(iter(video.open(tmp_path))).image
    assert np.array_equal(shown, np.rot90(image, -1))


def test_images_of_other_sizes_are_fitted_into_the_first(tmp_path: Path) -> None:
    Image.fromarray(grey(200, 40, 40)).save(tmp_path / "1.png")
    Image.fromarray(grey(200, 20, 80)).save(tmp_path / "2.png")
    Image.fromarray(grey(200, 10, 10)).save(tmp_path / "3.png")
    Image.new("RGBA", (40, 40), (200, 200, 200, 255)).save(tmp_path / "4.png")
    Image.new("L", (40, 40), 200).save(tmp_path / "5.png")
    images = next(video.open(tmp_path).chunks(8)).images
    assert images.shape == (5, 40, 40, 3)
    assert (images[1, 15:25] == 200).all() and (images[1, :14] == 0).all()
    assert (images[2:] == 200).all()
    small = next(video.open(tmp_path, max_side_px=10).chunks(8)).images
    assert small.shape == (5, 10, 10, 3)


def test_limits_apply_to_folders(folder: Path) -> None:
    for limits, message in (
        (Limits(max_bytes=50), "shots is"),
        (Limits(max_pixels=95), "f1.png has frames of 12 x 8"),
        (Limits(max_duration_s=11), "plays for 12.0 s"),
    ):
        with pytest.raises(VideoError, match=message):
            list(video.open(folder, limits=limits))


@given(count=st.integers(1, 60), size=st.integers(1, 25), top=st.none() | st.integers(1, 70))
def test_chunks_cover_all_frames_in_order(count: int, size: int, top: int | None) -> None:
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    source = video.from_arrays(frames, fps=2.0, max_frames=top)
    chunks = list(source.chunks(size))
    expected = min(count, top or count)
    assert source.estimated_frames == expected
    assert [frame.index for chunk in chunks for frame in chunk] == list(range(expected))
    assert [int(f.image[0, 0, 0]) for chunk in chunks for f in chunk] == list(range(expected))
    assert [t for chunk in chunks for t in chunk.times_s] == [k / 2 for k in range(expected)]
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert 1 <= len(chunks[-1]) <= size
    for chunk in chunks:
        assert np.array_equal(chunk.images, np.stack([frame.image for frame in chunk]))


def test_frames_from_python() -> None:
    mixed = [grey(1), Image.fromarray(grey(2)), video.Frame(grey(3), 9, 99.0)]
    source = video.open(mixed, fps=10)
    assert levels(source) == [1, 2, 3]
    assert (source.kind, source.name, source.sha256()) == ("arrays", "arrays", None)
    handed_on = video.from_arrays((frame for frame in mixed), name="mine", start_s=1.0)
    assert (handed_on.name, handed_on.estimated_frames, handed_on.duration_s) == (
        "mine",
        None,
        None,
    )
    assert levels(handed_on) == [2, 3]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, 4, 3), dtype=np.uint8), r"shape \[4, 4, 3\] is no stack of frames"),
        (np.zeros((2, 4, 4, 3), dtype=np.float32), r"frame 0 of arrays is float32 \[4, 4, 3\]"),
        ([grey(0), grey(0)[..., 0]], r"frame 1 of arrays is uint8 \[8, 12\]"),
        ([], "arrays holds no frames"),
    ],
)
def test_what_is_no_stack_of_frames(frames: object, message: str) -> None:
    with pytest.raises(VideoError, match=message):
        list(video.open(frames))  # type: ignore[arg-type]


def test_a_world_by_name() -> None:
    drawn = World.generate(7, 20)
    source = video.open("world:seed=7,frames=20", fps=2, max_frames=5, start_s=1)
    frames = list(source)
    assert [frame.time_s for frame in frames] == [1.0, 1.5, 2.0, 2.5, 3.0]
    for t, frame in enumerate(frames, 2):
        assert np.array_equal(frame.image, drawn.frame(t))
    assert (source.kind, source.name, source.duration_s) == ("world", "world:seed=7,frames=20", 10)
    busy = World.generate(0, 9, camera="pan", density=1.5)
    images = [f.image for f in video.open("world:frames=9, camera=pan, density=1.5")]
    assert all(np.array_equal(image, busy.frame(t)) for t, image in enumerate(images))
    assert video.open("world:").estimated_frames == 64


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("world:seed=x", "seed in 'world:seed=x' is 'x': give a whole number"),
        ("world:density=high", "density in 'world:density=high' is 'high': give a number"),
        ("world:speed=3", "'speed=3' in 'world:speed=3' is not understood"),
        ("world:seed", "'seed' in 'world:seed' is not understood"),
        ("world:frames=0", "at least 1 frame"),
        ("world:seed=-1", "must not be negative"),
        ("world:camera=drone", "Unknown camera 'drone'"),
    ],
)
def test_a_world_that_cannot_be(spec: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        video.open(spec)


def test_without_worlds_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hermes_lab.worlds", None)
    with pytest.raises(VideoError, match="this installation has no procedural worlds"):
        video.open("world:seed=1")


def test_cameras_are_named_by_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    assert camera.camera_input("1", "linux") == ("/dev/video1", "v4l2")
    assert camera.camera_input("/dev/video7", "linux") == ("/dev/video7", "v4l2")
    assert camera.camera_input("1", "darwin") == ("1:none", "avfoundation")
    devices = [
        SimpleNamespace(name="Microphone", media_types=["audio"]),
        SimpleNamespace(name="Webcam", media_types=["video"]),
        SimpleNamespace(name="Capture", media_types=["video", "audio"]),
    ]
    monkeypatch.setattr(camera, "enumerate_input_devices", lambda _: devices)
    assert camera.camera_input("1", "win32") == ("video=Capture", "dshow")
    assert camera.camera_input("Webcam", "win32") == ("video=Webcam", "dshow")
    with pytest.raises(VideoError, match=r"Camera 2 .* has 2 \(found: Webcam, Capture\)"):
        camera.camera_input("2", "win32")
    with pytest.raises(VideoError, match="Cameras cannot be opened on plan9"):
        camera.camera_input("0", "plan9")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names a Linux device")
@pytest.mark.parametrize("source", ["99", "camera:99"])
def test_a_camera_that_is_not_there(source: str) -> None:
    with pytest.raises(VideoError, match=r"Camera 99 cannot be opened: there is no /dev/video99"):
        video.open(source)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names a Linux device")
def test_a_device_that_is_no_camera() -> None:
    with pytest.raises(VideoError, match=r"Camera /dev/null .*check that it is plugged in"):
        video.open("camera:/dev/null")


def test_what_a_string_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 3, 1)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [number_of(f.image) for f in video.open("~/clip.mp4")] == [0, 1, 2]
    assert video.open(f"file://{clip}").kind == "file"
    (tmp_path / "0").mkdir()
    Image.fromarray(numbered(5)).save(tmp_path / "0" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert video.open("./0").kind == "folder"
    for source, message in (
        ("", "The source is empty"),
        ("ftp://host/clip.mp4", "has the unknown scheme 'ftp': use one of rtsp"),
        ("clpi.mp4", r"There is no file clpi.mp4; near names there: clip.mp4\."),
    ):
        with pytest.raises(VideoError, match=message):
            video.open(source)


def test_closing_stops_a_running_iteration() -> None:
    finished: list[bool] = []

    def endless() -> Iterator[np.ndarray]:
        try:
            while True:
                yield grey(0)
        finally:
            finished.append(True)

    given_frames = endless()
    with video.from_arrays(given_frames) as source:
        frames = iter(source)
        next(frames)
    assert next(frames, None) is None
    with pytest.raises(VideoError, match="is closed"):
        iter(source)
    given_frames.close()
    assert finished == [True]
