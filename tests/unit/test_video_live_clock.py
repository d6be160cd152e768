"""Whose seconds are those of a live stream: stamps that can be true, or the arrival of the frames."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lab.video.live_clock import LiveClock, is_clockless

Arrivals = list[tuple[float | None, float]]
"""(stamp, arrival) of each frame, in seconds of two clocks that need not start at zero."""

START_S = 1000.0
"""What the clock on the wall says when the first frame comes."""


def run(
    frames: Arrivals, *, believed: bool = True, idle: float = 1.0
) -> tuple[list[float], LiveClock]:
    """The time of every frame; the reader waits for a share `idle` of the time."""
    clock = LiveClock(believed=believed)
    times = [clock.stamp(raw_s, START_S + at_s, idle * at_s) for raw_s, at_s in frames]
    assert times[0] == 0.0
    assert all(a < b for a, b in pairwise(times))
    return times, clock


def paced(stamps: list[float | None], rate: float) -> Arrivals:
    """Frames that come one by one, `rate` a second."""
    return [(raw_s, n / rate) for n, raw_s in enumerate(stamps)]


def counted(seconds: float, delivered: float, declared: float) -> Arrivals:
    """A camera that delivers one rate and stamps another."""
    return paced([7.0 + n / declared for n in range(int(seconds * delivered))], delivered)


def worst_s(times: list[float], frames: Arrivals, since_s: float = 0.0) -> float:
    return max(abs(t - at_s) for t, (_, at_s) in zip(times, frames, strict=True) if at_s >= since_s)


def test_good_stamps_are_kept_to_the_digit() -> None:
    dice = random.Random(0)
    frames: Arrivals = [(500 + n / 30, n / 30 + dice.uniform(0, 0.2)) for n in range(1800)]
    frames = [(raw, max(at, frames[n - 1][1] if n else 0.0)) for n, (raw, at) in enumerate(frames)]
    times, clock = run(frames)
    assert times == pytest.approx([n / 30 for n in range(1800)])
    assert clock.note("camera 0") is None


@pytest.mark.parametrize(("delivered", "declared"), [(5, 25), (1, 25), (10, 30), (24, 30)])
def test_stamps_that_are_too_slow_give_way(delivered: float, declared: float) -> None:
    frames = counted(40, delivered, declared)
    times, clock = run(frames)
    assert worst_s(times, frames) < 3.5
    assert worst_s(times, frames, since_s=20) < 0.1
    assert "does not keep time with the wall clock: from" in (clock.note("cam") or "")


@pytest.mark.parametrize(("delivered", "declared"), [(30, 25), (50, 25), (26, 25), (10, 1), (5, 2)])
def test_stamps_that_are_too_fast_give_way(delivered: float, declared: float) -> None:
    frames = counted(60, delivered, declared)
    times, clock = run(frames)
    assert clock.given_up_s is not None
    later = [t - at for t, (_, at) in zip(times, frames, strict=True) if at > 40]
    assert max(later) - min(later) < 1e-6 and max(later) < 20
    if delivered / declared <= 2:
        assert worst_s(times, frames) < 2.1


def test_one_stamp_for_all() -> None:
    frames = paced([3.0] * 50, 5)
    times, clock = run(frames)
    assert worst_s(times, frames) < 0.05
    assert clock.note("cam") == (
        "The times of cam are missing or cannot be true at 49 of its frames, first at 0.20 s: "
        "these are timed by their arrival."
    )


def test_no_stamps() -> None:
    frames = paced([None] * 50, 5)
    assert run(frames)[0] == pytest.approx([n / 5 for n in range(50)])


def test_stamps_of_whole_seconds() -> None:
    frames = paced([float(n // 10) for n in range(300)], 10)
    assert worst_s(run(frames)[0], frames) < 1.1


def test_stamps_that_fall_to_zero_and_come_back() -> None:
    stamps: list[float | None] = [326 + n / 30 for n in range(105)]
    stamps[30:70] = [0.0] * 40
    frames = paced(stamps, 30)
    times, clock = run(frames)
    assert worst_s(times, frames) < 0.1
    assert clock.faults == 41


@pytest.mark.parametrize("set_by_s", [600.0, 5.0, 1.5, -0.7, -5.0, -900.0])
def test_a_clock_that_is_set_on_the_way(set_by_s: float) -> None:
    stamps: list[float | None] = [1000 + n / 25 + (set_by_s if n >= 75 else 0) for n in range(175)]
    frames = paced(stamps, 25)
    times, clock = run(frames)
    assert worst_s(times, frames) < 0.2
    assert times[80:] == pytest.approx([times[80] + n / 25 for n in range(95)])
    assert clock.faults == 1


def test_what_a_server_had_waiting_comes_in_a_burst() -> None:
    frames: Arrivals = [(n / 25, 0.001 * n) for n in range(250)]
    frames += [(10 + n / 25, 0.25 + n / 25) for n in range(2000)]
    times, clock = run(frames)
    assert times == pytest.approx([n / 25 for n in range(2250)])
    assert clock.note("cam") is None


def test_what_piled_up_before_it_was_read_leaves_no_gap() -> None:
    """A camera keeps four frames while a model loads for thirty seconds, and drops those between."""
    stamps = [n / 30 for n in range(4)] + [30 + n / 30 for n in range(300)]
    clock = LiveClock(opened_s=0.0)
    times = [clock.stamp(raw_s, 30 + n / 30, n / 30) for n, raw_s in enumerate(stamps)]
    assert times == pytest.approx([n / 30 for n in range(304)])
    assert clock.note("camera 0") is None


def test_segments_come_in_bursts() -> None:
    frames: Arrivals = [(n / 25, 6 * (n // 150) + 0.002 * (n % 150)) for n in range(3000)]
    times, clock = run(frames)
    assert times == pytest.approx([n / 25 for n in range(3000)])
    assert clock.note("cam") is None


def test_a_stalled_network_catches_up() -> None:
    frames: Arrivals = [(n / 25, n / 25) for n in range(50)]
    frames += [(2 + n / 25, max(2 + n / 25, 5 + 0.005 * n)) for n in range(500)]
    times, clock = run(frames)
    assert times == pytest.approx([n / 25 for n in range(550)])
    assert clock.note("cam") is None


def test_a_recording_that_is_sent_fast_keeps_its_pauses() -> None:
    stamps = [n / 25 + (30.0 if n >= 60 else 0.0) for n in range(500)]
    frames: Arrivals = [(raw_s, n / 2500) for n, raw_s in enumerate(stamps)]
    times, clock = run(frames)
    assert times == pytest.approx(stamps)
    assert clock.note("cam") is None


def test_a_slow_show_in_a_burst() -> None:
    frames: Arrivals = [(5.0 * n, 0.01 * n) for n in range(20)]
    assert run(frames)[0] == pytest.approx([5.0 * n for n in range(20)])


@pytest.mark.parametrize(("delivered", "declared"), [(10, 25), (40, 25)])
def test_a_reader_that_is_too_slow_blames_nobody(delivered: float, declared: float) -> None:
    frames = counted(30, delivered, declared)
    times, clock = run(frames, idle=0.1)
    assert times == pytest.approx([n / declared for n in range(len(frames))])
    assert clock.note("cam") is None


def test_two_good_clocks_drift_apart() -> None:
    frames: Arrivals = [(n / 25 * 1.0003, n / 25) for n in range(50_000)]
    times, clock = run(frames)
    assert times[-1] == pytest.approx(1999.96 * 1.0003)
    assert clock.note("cam") is None


def test_formats_without_times_are_timed_by_arrival() -> None:
    frames = counted(10, 5, 25)
    times, clock = run(frames, believed=False)
    assert times == pytest.approx([n / 5 for n in range(50)])
    assert clock.note("cam") == (
        "cam carries no times of its own: its frames are timed by their arrival."
    )
    for name in ("mpjpeg", "jpeg_pipe", "h264", "mjpeg"):
        assert is_clockless(name)
    for name in ("mpegts", "rtsp", "flv", "video4linux2,v4l2", "mov,mp4,m4a,3gp,3g2,mj2", "hls"):
        assert not is_clockless(name)


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_no_stamp_leads_far_from_the_wall_clock(stamps: list[float | None]) -> None:
    frames = paced(stamps, 10)
    times, _ = run(frames)
    # The first step is believed up to ten seconds, and those after it to a second each.
    assert worst_s(times, frames) < 40
