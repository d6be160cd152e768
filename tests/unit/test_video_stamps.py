"""Presentation times of containers that store decoding times, and of files copied out of them."""

from __future__ import annotations

import json
import shutil
import subprocess
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from hermes_lab import video
from hermes_lab.video.stamps import Stamps, Trust
from tests.clips import constant_rate, copied, number_of, write_clip

FRAMES, RATE = 80, 25
REORDERED = {"bf": "3", "b-adapt": "0", "g": "30"}
DEEP = {"bf": "8", "b-adapt": "0", "b-pyramid": "normal", "g": "40"}
IN_ORDER = {"bf": "0", "g": "30"}


def clip_in(folder: Path, name: str, codec: str, options: dict[str, str]) -> Path:
    """A clip of bar codes by name: `a.avi`, or `a.avi>mkv` for a copy of the AVI as MKV."""
    stored, _, remuxed = name.partition(">")
    clip = constant_rate(folder / stored, FRAMES, RATE, codec=codec, options=options)
    return copied(clip, folder / f"copy.{remuxed}") if remuxed else clip


KINDS = [
    (name, codec, options)
    for name in ("a.avi", "a.asf", "a.avi>mp4", "a.avi>mkv", "a.avi>mov", "a.avi>ts", "a.asf>mkv")
    for codec, options in (("libx264", REORDERED), ("libx264", DEEP), ("libx264", IN_ORDER))
] + [("a.avi", "mpeg4", {"bf": "2"}), ("a.avi>mp4", "mpeg4", {"bf": "2"})]


@pytest.mark.parametrize(("name", "codec", "options"), KINDS)
def test_frames_have_their_true_times(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    clip = clip_in(tmp_path, name, codec, options)
    source = video.open(clip, fps=None)
    frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(FRAMES))
    expected = [n / RATE for n in range(FRAMES)]
    assert [frame.time_s for frame in frames] == pytest.approx(expected, abs=2e-3)
    assert source.damage is None
    sampled = video.open(clip, fps=1)
    assert [number_of(frame.image) for frame in sampled] == [0, 25, 50, 75]
    assert sampled.estimated_frames == 4


@pytest.mark.parametrize(("name", "codec", "options"), KINDS)
def test_starting_late_shows_what_was_on_screen(
    tmp_path: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    clip = clip_in(tmp_path, name, codec, options)
    for start_s in (0.2, 1.3, 2.5, 3.13):
        late = list(video.open(clip, fps=None, start_s=start_s))
        first = int(np.ceil(start_s * RATE - 0.05))
        assert [number_of(frame.image) for frame in late] == list(range(first, FRAMES))
        expected = [n / RATE for n in range(first, FRAMES)]
        assert [frame.time_s for frame in late] == pytest.approx(expected, abs=2e-3)


def test_stamps_that_are_all_out_of_order(tmp_path: Path) -> None:
    """FFmpeg finds no order in these: the presentation and the decoding times both run back."""
    clip = clip_in(tmp_path, "a.avi>mkv", "mpeg4", {"bf": "2"})
    frames = list(video.open(clip, fps=None))
    assert [number_of(frame.image) for frame in frames] == list(range(FRAMES))
    times = [frame.time_s for frame in frames]
    assert times == pytest.approx([n / RATE for n in range(FRAMES)], abs=1.5 / RATE)
    assert all(a < b for a, b in pairwise(times))


GAPS = [0, *np.cumsum([1 + (n * n) % 7 for n in range(59)]).tolist()]


@pytest.mark.parametrize("name", ["a.avi", "a.avi>mp4", "a.avi>mkv", "a.asf"])
@pytest.mark.parametrize("options", [REORDERED, IN_ORDER], ids=["b-frames", "no b-frames"])
def test_a_variable_rate(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    stored, _, remuxed = name.partition(">")
    clip = write_clip(tmp_path / stored, GAPS, Fraction(1, RATE), rate=RATE, options=options)
    clip = copied(clip, tmp_path / f"copy.{remuxed}") if remuxed else clip
    source = video.open(clip, fps=None)
    frames = list(source)
    assert [number_of(frame.image) for frame in frames] == list(range(60))
    assert source.damage is None
    # The times of the last frames are lost where they wait for their order: they follow closely.
    told = 58 if options is REORDERED else 60
    expected = [tick / RATE for tick in GAPS]
    times = [frame.time_s for frame in frames]
    # Matroska has one stamp a frame: FFmpeg deals them out in order, a gap or two off.
    off_s = 0.3 if remuxed == "mkv" and options is REORDERED else 2e-3
    assert times[:told] == pytest.approx(expected[:told], abs=off_s)
    assert all(a < b for a, b in pairwise(times)) and times[-1] <= expected[-1] + 1e-6


def test_joined_recordings_run_on(tmp_path: Path) -> None:
    part = constant_rate(tmp_path / "a.ts", 50, RATE, options=REORDERED)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(part.read_bytes() * 2)
    frames = list(video.open(joined, fps=None))
    assert [number_of(frame.image) for frame in frames] == [*range(50)] * 2
    assert [frame.time_s for frame in frames] == pytest.approx([n / RATE for n in range(100)])


@pytest.mark.parametrize(("suffix", "codec"), [("ts", "libx264"), ("mpg", "mpeg2video")])
def test_starting_late_in_joined_recordings(tmp_path: Path, suffix: str, codec: str) -> None:
    part = constant_rate(
        tmp_path / f"a.{suffix}", 75, RATE, codec=codec, options={"bf": "2", "g": "10"}
    )
    joined = tmp_path / f"joined.{suffix}"
    joined.write_bytes(part.read_bytes() * 2)
    whole = list(video.open(joined, fps=None))
    assert [number_of(frame.image) for frame in whole] == [*range(75)] * 2
    for start_s in (0.3, 1.0, 2.9, 3.1, 5.0, 5.9):
        late = list(video.open(joined, fps=None, start_s=start_s))
        expected = [frame for frame in whole if frame.time_s >= start_s - 1e-6]
        assert [f.time_s for f in late] == pytest.approx([f.time_s for f in expected])
        assert [number_of(f.image) for f in late] == [number_of(f.image) for f in expected]


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "flv"])
def test_a_video_that_starts_late_in_its_file_is_whole(tmp_path: Path, suffix: str) -> None:
    clip = write_clip(tmp_path / f"a.{suffix}", range(70, 100), Fraction(1, 10), rate=10)
    source = video.open(clip, fps=None)
    assert len(list(source)) == 30
    assert source.damage is None
    if suffix != "flv":  # whose header counts from zero, by the muxer's own reckoning
        assert source.duration_s == pytest.approx(3.0, abs=0.11)


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="compares with the ffprobe command")
@pytest.mark.parametrize(("name", "codec", "options"), KINDS)
def test_ffprobe_agrees(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    clip = clip_in(tmp_path, name, codec, options)
    command = "ffprobe -v quiet -select_streams v:0 -show_entries frame=best_effort_timestamp_time"
    told = subprocess.run([*command.split(), "-of", "json", clip], capture_output=True, check=True)
    key = "best_effort_timestamp_time"
    stamps = [float(f[key]) for f in json.loads(told.stdout)["frames"] if key in f]
    times = [frame.time_s for frame in video.open(clip, fps=None)]
    # It keeps the decoder's delay when it changes over, and borrows the stamps of the last frames.
    off_s = 0.4 if options is DEEP else 0.2
    assert FRAMES - 4 <= len(stamps) <= len(times) == FRAMES
    assert times[: len(stamps)] == pytest.approx([s - stamps[0] for s in stamps], abs=off_s)


def raw(stamps: Stamps, frames: list[tuple[int | None, int | None]]) -> list[float | None]:
    base = Fraction(1, 10)
    return [
        stamps.raw_s(SimpleNamespace(pts=pts, dts=dts, time_base=base))  # type: ignore[arg-type]
        for pts, dts in frames
    ]


def test_presentation_times_are_believed_while_they_advance() -> None:
    stamps = Stamps()
    assert raw(stamps, [(5, 3), (6, 4), (9, 7), (10, None)]) == [0.5, 0.6, 0.9, 1.0]
    assert stamps.trust == Trust(shift_s=pytest.approx(0.2))


def test_decoding_times_take_over_on_the_same_clock() -> None:
    stamps = Stamps()
    assert raw(stamps, [(5, 3), (6, 4), (7, 5), (10, 6)]) == [0.5, 0.6, 0.7, 1.0]
    assert raw(stamps, [(9, 7), (8, 8), (11, 9)]) == pytest.approx([0.9, 1.0, 1.1])
    assert raw(stamps, [(13, None), (12, None)]) == [None, None]


def test_both_clocks_starting_over_is_no_reason_to_change() -> None:
    assert raw(Stamps(), [(50, 48), (51, 0), (2, 1), (3, 2)]) == [5.0, 5.1, 0.2, 0.3]


def test_a_missing_presentation_time_is_read_from_the_decoding_time() -> None:
    assert raw(Stamps(), [(None, 3), (None, 4), (None, 5)]) == pytest.approx([0.3, 0.4, 0.5])
    assert raw(Stamps(), [(None, None), (5, None)]) == [None, 0.5]


def test_where_both_run_back_and_forth_only_the_furthest_stamp_counts() -> None:
    jumble: list[tuple[int | None, int | None]] = [(n, n) for n in (0, 2, 1, 4, 3, 6, 5, 30, 2, 4)]
    stamps = Stamps(Trust(jumbled=True))
    assert raw(stamps, jumble) == [0, 0.2, None, 0.4, None, 0.6, None, 3.0, 0.2, 0.4]
    learning = Stamps()
    raw(learning, jumble[:5])
    assert learning.trust.jumbled and not learning.trust.by_dts


def test_what_was_learnt_serves_the_next_pass() -> None:
    trust = Trust(by_dts=True, shift_s=0.2)
    assert raw(Stamps(trust), [(9, 5), (8, 6), (7, None)]) == pytest.approx([0.7, 0.8, None])


def test_reordering_that_begins_late_is_noticed(tmp_path: Path) -> None:
    still = [np.zeros((32, 128, 3), np.uint8)] * 40
    plain = constant_rate(tmp_path / "a.ts", 40, RATE, pictures=still, options={"bf": "0"})
    moving = constant_rate(tmp_path / "b.ts", 40, RATE, options=REORDERED)
    clip = tmp_path / "late.mkv"
    with av.open(str(clip), "w") as copy:
        tick = 0
        stream = None
        for part in (plain, moving):
            with av.open(str(part)) as original:
                packets = original.streams.video[0]
                stream = stream or copy.add_stream_from_template(packets)
                for packet in original.demux(packets):
                    if packet.dts is None:
                        continue
                    packet.time_base = Fraction(1, RATE)
                    packet.pts = packet.dts = tick
                    packet.stream = stream
                    copy.mux(packet)
                    tick += 1
    frames = list(video.open(clip, fps=None))
    assert [number_of(frame.image) for frame in frames[40:]] == list(range(40))
    times = [frame.time_s for frame in frames]
    assert times == pytest.approx([n / RATE for n in range(80)], abs=3.5 / RATE)
    assert times[60:] == pytest.approx([n / RATE for n in range(60, 80)], abs=1.5 / RATE)
