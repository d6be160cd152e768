"""Bad input to the frame sources: each refusal is one sentence, and good frames are never lost."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from hermes_lab import video
from hermes_lab.errors import LabError, VideoError
from hermes_lab.video import Limits, container
from hermes_lab.video.demux import frames_and_damage
from tests.clips import constant_rate, number_of, write_clip, write_sound

FRAMES, RATE = 60, 10


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and not message.startswith("[Errno")


def refusal(source: object, **options: object) -> str:
    with pytest.raises(VideoError) as caught:
        list(video.open(source, **options))  # type: ignore[arg-type]
    assert isinstance(caught.value, LabError)
    assert one_sentence(str(caught.value)), caught.value
    return str(caught.value)


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    constant_rate(tmp_path / "Holiday.mp4", 2, 1)
    assert refusal(tmp_path / "holidy.mp4").endswith("; near names there: Holiday.mp4.")
    assert "check the name" in refusal(tmp_path / "zzz.mp4")
    assert "nor a folder" in refusal(str(tmp_path / "no" / "clip.mp4"))


def test_things_that_are_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(tmp_path / "empty.mp4")
    (tmp_path / "notes.mp4").write_text("just some words\n" * 500)
    assert "is not a video that can be read" in refusal(tmp_path / "notes.mp4")
    (tmp_path / "noise.mkv").write_bytes(random.Random(0).randbytes(50_000))
    assert "is not a video that can be read" in refusal(tmp_path / "noise.mkv")
    sound = refusal(write_sound(tmp_path / "song.m4a"))
    assert "song.m4a has no video stream (it holds audio)" in sound


def test_a_file_that_vanishes_between_opening_and_reading(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 2, 1)
    source = video.open(clip)
    clip.unlink()
    with pytest.raises(VideoError, match="No such file"):
        list(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps is 0: give a positive number"),
        ({"fps": -1.0}, "fps is -1.0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": float("inf")}, "fps is inf"),
        ({"max_frames": 0}, "max_frames is 0: give at least 1"),
        ({"start_s": -0.5}, "start_s is -0.5"),
        ({"start_s": float("nan")}, "start_s is nan"),
        ({"max_side_px": 0}, "max_side_px is 0"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, float], message: str) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 2, 1)
    assert message in refusal(clip, **options)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Whole clips of moving noise by container; faststart puts the MP4's index in front."""
    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0).integers(0, 255, (64, 128, 3), dtype=np.uint8)
    made: dict[str, bytes] = {}
    for name, codec, muxing in (
        ("front.mp4", "libx264", {"movflags": "faststart"}),
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("clip.mkv", "libx264", {}),
        ("clip.ts", "libx264", {}),
        ("clip.avi", "mpeg4", {}),
        ("clip.flv", "libx264", {}),
    ):
        path = write_clip(
            folder / name,
            range(FRAMES),
            Fraction(1, RATE),
            rate=RATE,
            codec=codec,
            pictures=[np.roll(noise, 3 * n, axis=1) for n in range(FRAMES)],
            options={"g": "20"},
            muxing=muxing,
        )
        made[name] = path.read_bytes()
    return made


def whole(folder: Path, name: str, data: bytes) -> list[np.ndarray]:
    path = folder / f"whole-{name}"
    path.write_bytes(data)
    source = video.open(path, fps=None)
    frames = list(source)
    assert [f.time_s for f in frames] == pytest.approx([n / RATE for n in range(FRAMES)])
    assert source.damage is None
    return [frame.image for frame in frames]


def opened_or_refused(path: Path) -> tuple[video.FrameSource, list[video.Frame]] | None:
    """A damaged clip and its frames; None if it was refused, which must be in one sentence."""
    refused = None
    try:
        source = video.open(path, fps=None)
        return source, list(source)
    except VideoError as error:
        refused = str(error)
    assert one_sentence(refused), refused
    return None


CONTAINERS = ["front.mp4", "fragments.mp4", "clip.mkv", "clip.ts", "clip.avi", "clip.flv"]
NO_PROMISE = {"clip.ts", "clip.avi"}
"""A cut MPEG-TS is a shorter MPEG-TS, and FFmpeg measures an AVI by the bytes that are left."""


@pytest.mark.parametrize("name", CONTAINERS)
def test_truncation_anywhere_delivers_the_frames_before_it(
    tmp_path: Path, clips: dict[str, bytes], name: str
) -> None:
    original = whole(tmp_path, name, clips[name])
    path = tmp_path / name
    delivered: list[int] = []
    for cut in np.linspace(8, len(clips[name]) - 8, 24).astype(int):
        path.write_bytes(clips[name][:cut])
        opened = opened_or_refused(path)
        if opened is None:
            delivered.append(0)
            continue
        source, frames = opened
        pictures = {round(frame.time_s * RATE): frame.image for frame in frames}
        assert list(pictures) == sorted(pictures)
        assert all(np.array_equal(picture, original[n]) for n, picture in pictures.items())
        delivered.append(len(pictures))
        if source.damage is not None:
            assert name in source.damage and one_sentence(source.damage)
        elif name not in NO_PROMISE:
            assert len(pictures) >= FRAMES - 3, "the header promises more, and nobody noticed"
        if source.damage is None or "truncated" not in source.damage:
            holes = max(pictures) + 1 - len(pictures)
            assert holes == 0 or name in NO_PROMISE
    assert delivered == sorted(delivered)
    assert delivered[-1] >= FRAMES - 3
    assert sum(n > 0 for n in delivered) >= 12


def test_truncation_says_the_second_and_why(tmp_path: Path, clips: dict[str, bytes]) -> None:
    path = tmp_path / "front.mp4"
    data = clips["front.mp4"]
    path.write_bytes(data[: len(data) * 6 // 10])
    source = video.open(path, fps=1)
    assert source.damage is None
    taken = [frame.time_s for frame in source]
    assert taken == [0.0, 1.0, 2.0, 3.0][: len(taken)] and len(taken) >= 3
    assert source.damage is not None
    assert source.damage.startswith("front.mp4 is damaged at 3.")
    assert source.damage.endswith("s: the data of a frame is incomplete.")


def test_an_mp4_cut_before_its_index_says_so(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", FRAMES, RATE)
    data = clip.read_bytes()
    for share in (0.1, 0.5, 0.8):
        clip.write_bytes(data[: int(len(data) * share)])
        assert "whose index is missing or damaged" in refusal(clip)


def frames_before(path: Path, at_byte: int) -> int:
    """How many frames lie, shown and stored, before a byte of a whole clip."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None and p.pos is not None]
        # MPEG-TS gives no end of a packet: there, the one before the byte counts as touched.
        touched = [
            p.pts
            for p, following in zip(packets, [*packets[1:], None], strict=True)
            if following is None or following.pos >= at_byte or p.pos + p.size >= at_byte
        ]
        return sum(p.pts < min(touched) for p in packets)


@pytest.mark.parametrize("name", CONTAINERS)
def test_garbage_bytes_never_crash_and_keep_what_came_before(
    tmp_path: Path, clips: dict[str, bytes], name: str
) -> None:
    original = whole(tmp_path, name, clips[name])
    dice = random.Random(7)
    path = tmp_path / name
    noticed = 0
    for _ in range(24):
        data = bytearray(clips[name])
        at = dice.randrange(4096, len(data) - 3000)
        size = dice.choice([40, 400, 2000])
        data[at : at + size] = dice.randbytes(size)
        path.write_bytes(data)
        # The decoder may give up what still waits to be put in order when the damage arrives.
        safe = max(0, frames_before(tmp_path / f"whole-{name}", at) - 2)
        opened = opened_or_refused(path)
        if opened is None:
            assert safe == 0
            continue
        source, frames = opened
        assert len(frames) >= safe
        assert all(np.array_equal(f.image, original[n]) for n, f in enumerate(frames[:safe]))
        if source.damage is not None:
            assert one_sentence(source.damage)
            noticed += 1
    assert noticed >= 6


def test_damage_before_the_first_picture_is_passed_over(
    tmp_path: Path, clips: dict[str, bytes]
) -> None:
    path = tmp_path / "clip.ts"
    data = clips["clip.ts"]
    path.write_bytes(data[len(data) // 5 // 188 * 188 :])
    source = video.open(path, fps=None)
    frames = list(source)
    assert 20 <= len(frames) <= 48
    assert frames[0].time_s == 0.0


def test_a_damaged_beginning_is_mentioned(tmp_path: Path) -> None:
    dice = np.random.default_rng(1)
    pictures = [dice.integers(0, 255, (64, 128, 3), dtype=np.uint8) for _ in range(10)]
    clip = write_clip(
        tmp_path / "clip.avi",
        range(10),
        Fraction(1, 10),
        rate=10,
        codec="mpeg4",
        pictures=pictures,
        options={"g": "1"},
    )
    original = [frame.image for frame in video.open(clip, fps=None)]
    with av.open(str(clip)) as container:
        first = next(container.demux(video=0))
    data = bytearray(clip.read_bytes())
    middle = first.pos + first.size // 2
    data[middle : middle + 500] = random.Random(2).randbytes(500)
    clip.write_bytes(data)
    source = video.open(clip, fps=None)
    images = [frame.image for frame in source]
    assert len(images) == 9
    assert all(np.array_equal(a, b) for a, b in zip(images, original[1:], strict=True))
    assert source.damage == "clip.avi is damaged at 0.00 s: a frame is damaged."


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4", "mov", "flv", "ts"])
def test_a_title_that_is_not_utf8_is_no_obstacle(tmp_path: Path, suffix: str) -> None:
    clip = constant_rate(tmp_path / f"clip.{suffix}", 10, 10, title="Latin 1: caf#")
    data = clip.read_bytes()
    if suffix != "ts":  # where the title is not kept
        assert b"Latin 1: caf#" in data
    clip.write_bytes(data.replace(b"caf#", b"caf\xe9"))
    assert [number_of(frame.image) for frame in video.open(clip, fps=None)] == list(range(10))


@pytest.mark.parametrize(
    "fault", [UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "x"), OverflowError("x"), MemoryError()]
)
def test_whatever_the_decoder_raises_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 30, 10)
    calls = 0

    def failing(*args: object, **kwargs: object) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls > good:
            raise fault
        return np.zeros((2, 2, 3), np.uint8)

    good = 2
    monkeypatch.setattr(container, "upright", failing)
    source = video.open(clip, fps=1)
    assert len(list(source)) == 2
    assert source.damage == f"clip.mp4 is damaged at 2.00 s: {type(fault).__name__}."
    calls, good = 0, 0
    assert refusal(clip) == f"clip.mp4 is damaged at 0.00 s: {type(fault).__name__}."
    monkeypatch.setattr(container, "video_stream", failing)
    assert f"clip.mp4 cannot be decoded ({type(fault).__name__})" in refusal(clip)
    monkeypatch.setattr(av, "open", failing)
    message = refusal(clip)
    assert "whose index is missing or damaged" in message and type(fault).__name__ in message


def test_a_stream_that_turns_up_on_the_way_does_not_spoil_the_end() -> None:
    class Packet:
        is_corrupt, pts, time_base = False, None, None

        def decode(self) -> list[av.VideoFrame]:
            return [av.VideoFrame(16, 16, "rgb24")]

    def demux(stream: object) -> Iterator[Packet]:
        yield Packet()
        raise IndexError("list index out of range")

    opened = SimpleNamespace(format=SimpleNamespace(name="flv"), demux=demux)
    entries = list(frames_and_damage(opened, SimpleNamespace()))  # type: ignore[arg-type]
    assert [type(entry) for entry in entries] == [av.VideoFrame]


def test_limits_refuse_before_decoding(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "clip.mp4", 50, 10)
    generous = Limits(max_bytes=10**6, max_pixels=10**6, max_duration_s=5.5)
    assert len(list(video.open(clip, limits=generous))) == 5
    assert "the limit is 0.0 MB" in refusal(clip, limits=Limits(max_bytes=100))
    assert "frames of 128 x 32 = 4096 pixels" in refusal(clip, limits=Limits(max_pixels=4095))
    assert "plays for 5.0 s or more" in refusal(clip, limits=Limits(max_duration_s=4))


def test_limits_hold_where_the_header_says_nothing(tmp_path: Path) -> None:
    clip = constant_rate(tmp_path / "clip.h264", 50, 10)
    assert video.open(clip).duration_s is None
    message = refusal(clip, limits=Limits(max_duration_s=2))
    assert "clip.h264 plays for" in message
    parts = b""
    for name, height in (("a", 32), ("b", 256)):
        picture = np.zeros((height, 256, 3), dtype=np.uint8)
        part = write_clip(
            tmp_path / f"{name}.ts", range(5), Fraction(1, 5), rate=5, pictures=[picture] * 5
        )
        parts += part.read_bytes()
    joined = tmp_path / "joined.ts"
    joined.write_bytes(parts)
    source = video.open(joined, fps=None, limits=Limits(max_pixels=256 * 64))
    assert len(list(source)) == 5
    assert source.damage is not None


def test_an_upload_reads_nothing_but_itself(tmp_path: Path) -> None:
    secret = constant_rate(tmp_path / "secret.ts", 10, 10)
    traps = {
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
        "joined.mp4": f"ffconcat version 1.0\nfile '{secret}'\n",
        "web.m3u8": "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "device.sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    }
    for name, text in traps.items():
        (tmp_path / name).write_text(text)
        assert "is not a video that can be read" in refusal(tmp_path / name)
    odd = tmp_path / "concat:secret.ts|secret.ts"
    odd.write_bytes(secret.read_bytes())
    frames = list(video.open(odd, fps=None))
    assert [number_of(frame.image) for frame in frames] == list(range(10))
    with pytest.raises(VideoError, match="There is no file"):
        video.open(f"concat:{secret}")
    with pytest.raises(VideoError, match="unknown scheme 'subfile'"):
        video.open(f"subfile://{secret}")
