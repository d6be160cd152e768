"""Video files: which frames come out of odd containers, rates, rotations and sizes."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hermes_lab import video
from hermes_lab.errors import VideoError
from tests.clips import HEIGHT, WIDTH, constant_rate, number_of, numbered, write_clip

ODD_RATES = [Fraction(1), Fraction(25, 2), Fraction(24000, 1001), Fraction(30000, 1001)]
NO_B_FRAMES = {"bf": "0"}


def numbers(source: video.FrameSource) -> list[int]:
    return [number_of(frame.image) for frame in source]


def decoded(path: Path) -> list[tuple[float, float, int]]:
    """(time from the first frame, duration, number) of every frame, by PyAV alone."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        base = frames[0].time_base
        first = frames[0].pts
        return [
            (
                float((frame.pts - first) * base),
                float(frame.duration * base),
                number_of(frame.to_ndarray(format="rgb24")),
            )
            for frame in frames
        ]


def literal(path: Path, fps: float, start_s: float, interval_s: float) -> list[int]:
    """The numbers on screen at start + k / fps, looking through all frames for each instant."""
    frames = decoded(path)
    ends = [time_s for time_s, _, _ in frames] + [frames[-1][0] + frames[-1][1]]
    picked: list[int] = []
    k = 0
    while True:
        instant = start_s + k / fps
        shown = 0
        for i in range(1, len(ends)):
            if ends[i] - 0.49 * min(ends[i] - ends[i - 1], interval_s, 1 / fps) <= instant:
                shown = i
        if shown == len(frames):
            return picked
        picked.append(frames[shown][2])
        k += 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts", "avi", "flv"])
@pytest.mark.parametrize("rate", ODD_RATES, ids=str)
def test_own_rate_and_every_frame_give_back_the_clip(
    tmp_path: Path, suffix: str, rate: Fraction
) -> None:
    codec = "mpeg4" if suffix == "avi" else "libx264"
    clip = constant_rate(tmp_path / f"clip.{suffix}", 24, rate, codec=codec)
    for fps in (float(rate), None):
        source = video.open(clip, fps=fps)
        frames = list(source)
        assert [number_of(frame.image) for frame in frames] == list(range(24))
        assert [frame.index for frame in frames] == list(range(24))
        assert [f.time_s for f in frames] == pytest.approx(
            [i / float(rate) for i in range(24)], abs=1e-3
        )
        assert source.damage is None


@pytest.mark.parametrize("fps", [0.7, 1.0, 2.5, 10.0, 29.97])
@pytest.mark.parametrize("start_s", [0.0, 1.3])
@pytest.mark.parametrize("rate", [Fraction(25, 2), Fraction(30000, 1001)], ids=str)
def test_sampling_a_file_equals_the_literal_rule(
    tmp_path: Path, fps: float, start_s: float, rate: Fraction
) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 90, rate, options={"g": "12"})
    source = video.open(clip, fps=fps, start_s=start_s)
    frames = list(source)
    expected = literal(clip, fps, start_s, float(1 / rate))
    assert [number_of(frame.image) for frame in frames] == expected
    assert len(expected) == source.estimated_frames
    assert all(a.time_s < b.time_s for a, b in pairwise(frames))
    assert frames[0].time_s >= start_s - 0.5 / float(rate)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("options", [{}, NO_B_FRAMES], ids=["b-frames", "no b-frames"])
def test_variable_frame_rate(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    pts = [0, 3, 4, 5, 40, 41, 90, 91, 92, 150]
    clip = write_clip(tmp_path / f"clip.{suffix}", pts, Fraction(1, 30), options=options)
    source = video.open(clip, fps=4)
    times = {number: time_s for time_s, _, number in decoded(clip)}
    taken: set[int] = set()
    for k, frame in enumerate(source):
        number = number_of(frame.image)
        upcoming = times.get(number + 1, np.inf)
        assert times[number] <= k / 4 + 0.02 and upcoming > k / 4
        if number not in taken:
            assert frame.time_s == pytest.approx(times[number])
        else:
            assert frame.time_s == pytest.approx(k / 4)
        taken.add(number)
    assert {0, 3, 5, 6, 9} <= taken
    assert numbers(video.open(clip, fps=None)) == list(range(10))


def test_b_frames_come_in_presentation_order(tmp_path: Path) -> None:
    options = {"bf": "3", "b-adapt": "0", "b-pyramid": "normal"}
    clip = constant_rate(tmp_path / "clip.mp4", 40, 25, options=options)
    with av.open(str(clip)) as container:
        order = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert order != sorted(order)
    assert numbers(video.open(clip, fps=None)) == list(range(40))


def test_missing_timestamps_are_filled_in_at_the_streams_rate(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "clip.h264", 30, 10)
    with av.open(str(clip)) as container:
        assert next(container.decode(video=0)).pts is None
    frames = list(video.open(clip, fps=None))
    assert [number_of(frame.image) for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx([i / 10 for i in range(30)])
    assert numbers(video.open(clip, fps=2)) == [0, 5, 10, 15, 20, 25]
    late = list(video.open(clip, fps=2, start_s=1))
    assert [number_of(frame.image) for frame in late] == [10, 15, 20, 25]


@pytest.mark.parametrize("suffix", ["mjpeg", "mjpg"])
def test_raw_motion_jpeg_opens(tmp_path: Path, suffix: str) -> None:
    parts = []
    for n in range(60):
        picture = io.BytesIO()
        Image.fromarray(numbered(n)).save(picture, "JPEG")
        parts.append(picture.getvalue())
    clip = tmp_path / f"cam.{suffix}"
    clip.write_bytes(b"".join(parts))
    source = video.open(clip, fps=None)
    frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(60))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 25 for n in range(60)])
    assert source.damage is None
    assert source.notes == (
        f"cam.{suffix} carries no times of its own: 25 frames per second are assumed.",
    )
    assert numbers(video.open(clip, fps=1, start_s=0.4)) == [10, 35]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_time_counts_from_the_first_frame_wherever_it_starts(tmp_path: Path, suffix: str) -> None:
    pts = range(70, 100)
    clip = write_clip(tmp_path / f"clip.{suffix}", pts, Fraction(1, 10), rate=10)
    source = video.open(clip, fps=1)
    frames = list(source)
    assert [number_of(frame.image) for frame in frames] == [0, 10, 20]
    assert [frame.time_s for frame in frames] == pytest.approx([0.0, 1.0, 2.0])
    late = list(video.open(clip, fps=1, start_s=1.5))
    assert [number_of(frame.image) for frame in late] == [15, 25]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
def test_starting_late_equals_dropping_the_beginning(tmp_path: Path, suffix: str) -> None:
    codec = "mpeg4" if suffix == "avi" else "libx264"
    clip = constant_rate(tmp_path / f"clip.{suffix}", 60, 10, codec=codec, options={"g": "7"})
    whole = list(video.open(clip, fps=None))
    for start in (0.1, 1.0, 3.3, 5.9):
        late = list(video.open(clip, fps=None, start_s=start))
        expected = [frame for frame in whole if frame.time_s >= start - 1e-6]
        assert [f.time_s for f in late] == pytest.approx([f.time_s for f in expected])
        assert [number_of(f.image) for f in late] == [number_of(f.image) for f in expected]
        assert [f.index for f in late] == list(range(len(late)))


def test_a_start_past_the_end_is_refused(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 10, 10)
    for fps in (1.0, None):
        with pytest.raises(VideoError, match=r"clip.mp4 has no frame at 9 s: start earlier\."):
            list(video.open(clip, fps=fps, start_s=9))


def test_sound_changes_nothing(tmp_path: Path) -> None:
    silent = constant_rate(tmp_path / "silent.mp4", 30, 10)
    loud = constant_rate(tmp_path / "loud.mp4", 30, 10, sound=True)
    with av.open(str(loud)) as container:
        assert len(container.streams.audio) == 1
    for a, b in zip(video.open(silent, fps=4), video.open(loud, fps=4), strict=True):
        assert a.time_s == b.time_s
        assert np.array_equal(a.image, b.image)


def corners() -> np.ndarray:
    """A picture with another colour in each corner, 64 wide and 32 high."""
    image = np.zeros((32, 64, 3), dtype=np.uint8)
    image[:16, :32] = (255, 0, 0)
    image[:16, 32:] = (0, 255, 0)
    image[16:, :32] = (0, 0, 255)
    image[16:, 32:] = (255, 255, 255)
    return image


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_rotation_and_mirroring_are_applied(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    clip = write_clip(
        tmp_path / "clip.mp4",
        range(3),
        Fraction(1),
        rate=1,
        pictures=[corners()] * 3,
        rotation=degrees,
        mirrored=mirrored,
    )
    expected = np.rot90(corners(), degrees // 90)
    if mirrored:
        expected = expected[:, ::-1]
    image = next(iter(video.open(clip))).image
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 12
    small = next(iter(video.open(clip, max_side_px=16))).image
    assert small.shape[:2] == (expected.shape[0] // 4, expected.shape[1] // 4)


@pytest.mark.parametrize(
    ("aspect", "size"),
    [
        (Fraction(2), (HEIGHT, 2 * WIDTH)),
        (Fraction(1, 2), (2 * HEIGHT, WIDTH)),
        (Fraction(1), (HEIGHT, WIDTH)),
        (Fraction(200), (HEIGHT, WIDTH)),
    ],
)
def test_pixels_are_made_square(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    clip = constant_rate(tmp_path / "clip.mkv", 5, 5, pixel_aspect=aspect)
    frame = list(video.open(clip, fps=None))[-1]
    assert frame.image.shape == (*size, 3)
    assert number_of(frame.image) == 4
    stored = next(iter(video.open(clip, square_pixels=False)))
    assert stored.image.shape == (HEIGHT, WIDTH, 3)


def test_longer_sides_are_scaled_down_and_shorter_ones_left(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 5, 5)
    assert next(iter(video.open(clip, max_side_px=64))).image.shape == (HEIGHT // 2, 64, 3)
    assert next(iter(video.open(clip, max_side_px=4096))).image.shape == (HEIGHT, WIDTH, 3)


def test_a_cover_picture_is_not_the_video(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        film = container.add_stream("libx264", rate=10)
        film.width, film.height, film.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        white = np.full((64, 64, 3), 255, dtype=np.uint8)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(white)))
        for n in range(5):
            container.mux(film.encode(av.VideoFrame.from_ndarray(numbered(n))))
        container.mux(film.encode(None))
    assert numbers(video.open(clip, fps=None)) == list(range(5))


def test_what_a_source_says_about_itself(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 40, 10)
    with video.open(str(clip), fps=2, max_frames=5) as source:
        assert (source.name, source.kind, source.is_live, source.fps) == (
            "clip.mp4",
            "file",
            False,
            2,
        )
        assert source.duration_s == pytest.approx(4.0)
        assert source.estimated_frames == 5
        assert source.sha256() == hashlib.sha256(clip.read_bytes()).hexdigest()
        assert numbers(source) == [0, 5, 10, 15, 20]
        assert numbers(source) == [0, 5, 10, 15, 20]
    with pytest.raises(VideoError, match=r"clip.mp4 is closed: open it again"):
        next(iter(source))


def test_frames_are_contiguous_rgb_arrays_in_chunks(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 10, 10)
    chunks = list(video.open(clip, fps=None).chunks(4))
    assert [len(chunk) for chunk in chunks] == [4, 4, 2]
    assert chunks[0].images.shape == (4, HEIGHT, WIDTH, 3)
    assert chunks[2].times_s == pytest.approx((0.8, 0.9))
    assert all(f.image.flags.c_contiguous and f.image.dtype == np.uint8 for f in chunks[1])
    with pytest.raises(VideoError, match="A chunk of 0 frames"):
        next(video.open(clip).chunks(0))


def test_a_size_that_changes_midway_is_fitted_into_the_first(tmp_path: Path) -> None:
    parts = []
    for name, height in (("a", 32), ("b", 64)):
        pictures = [np.full((height, 64, 3), 255, dtype=np.uint8)] * 5
        part = write_clip(
            tmp_path / f"{name}.ts", range(5), Fraction(1, 5), rate=5, pictures=pictures
        )
        parts.append(part.read_bytes())
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(parts))
    frames = list(video.open(joined, fps=None))
    assert {frame.image.shape for frame in frames} == {(32, 64, 3)}
    assert len(frames) == 10
    last = frames[-1].image
    assert last[:, 20:44].min() > 200 and last[:, :12].max() < 30
    assert all(a.time_s < b.time_s for a, b in pairwise(frames))


def test_decoding_holds_a_few_frames_and_not_the_file(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
    frames_in_clip = 150
    clip = write_clip(
        tmp_path / "clip.mp4",
        range(frames_in_clip),
        Fraction(1, 25),
        pictures=[np.roll(picture, 2 * n, axis=1) for n in range(frames_in_clip)],
        options={"preset": "ultrafast"},
    )
    source = video.open(clip, fps=None)
    tracemalloc.start()
    count = sum(1 for _ in source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == frames_in_clip
    assert peak < 12 * picture.nbytes
