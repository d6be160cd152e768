"""Sampling by presentation time, against a slow literal reading of its rule."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_lab.video.sampling import (
    LiveGrid,
    PresentationClock,
    Timed,
    from_start,
    shown_at_rate,
)

EARLY = 0.49


def literal(
    times: list[float], last_lasts_s: float, fps: float, start_s: float, interval_s: float
) -> list[tuple[int, float]]:
    """For each instant look through all frames for the last one that is on screen by then."""
    ends = [*times, times[-1] + last_lasts_s]

    def on_screen_from(i: int) -> float:
        if i == 0:
            return -math.inf
        return ends[i] - EARLY * min(ends[i] - ends[i - 1], interval_s, 1 / fps)

    picked: list[tuple[int, float]] = []
    k = 0
    while True:
        instant = start_s + k / fps
        candidates = [i for i in range(len(ends)) if on_screen_from(i) <= instant]
        if candidates[-1] == len(times):
            return picked
        frame = candidates[-1]
        repeated = bool(picked) and picked[-1][0] == frame
        own = not repeated and times[frame] >= start_s
        picked.append((frame, times[frame] if own else instant))
        k += 1


def sample(
    times: list[float], last_lasts_s: float | None, fps: float, start_s: float, interval_s: float
) -> list[tuple[int, float]]:
    timed = [Timed(t, last_lasts_s, i) for i, t in enumerate(times)]
    sampled = shown_at_rate(timed, fps=fps, start_s=start_s, interval_s=interval_s)
    return [(entry.item, entry.time_s) for entry in sampled]


@given(
    gaps_ms=st.lists(st.integers(1, 3000), max_size=30),
    last_ms=st.integers(1, 2000),
    fps=st.sampled_from([0.3, 1.0, 2.0, 2.5, 10.0, 23.976, 29.97, 60.0]),
    start_ms=st.integers(0, 4000),
    interval_s=st.sampled_from([0.02, 1 / 29.97, 0.08, 1.0, math.inf]),
)
def test_equals_the_literal_rule(
    gaps_ms: list[int], last_ms: int, fps: float, start_ms: int, interval_s: float
) -> None:
    times = [0.0]
    for gap_ms in gaps_ms:
        times.append(times[-1] + gap_ms / 1000)
    start_s = start_ms / 1000
    sampled = sample(times, last_ms / 1000, fps, start_s, interval_s)
    assert sampled == literal(times, last_ms / 1000, fps, start_s, interval_s)
    stamps = [time_s for _, time_s in sampled]
    assert all(earlier < later for earlier, later in pairwise(stamps))
    frames = [frame for frame, _ in sampled]
    assert frames == sorted(frames)


@pytest.mark.parametrize("rate", [1.0, 12.5, 24000 / 1001, 25.0, 30000 / 1001, 59.94])
@pytest.mark.parametrize("rounded_to_ms", [False, True])
def test_a_clip_sampled_at_its_own_rate_gives_back_its_frames(
    rate: float, rounded_to_ms: bool
) -> None:
    times = [round(i / rate, 3) if rounded_to_ms else i / rate for i in range(300)]
    sampled = sample(times, 1 / rate, rate, 0.0, 1 / rate)
    assert [frame for frame, _ in sampled] == list(range(300))
    assert [time_s for _, time_s in sampled] == times


def test_a_tie_goes_to_the_frame_already_on_screen() -> None:
    times = [i / 25 for i in range(50)]
    frames = [frame for frame, _ in sample(times, 0.04, 2.0, 0.0, 0.04)]
    assert frames == [0, 12, 25, 37]


def test_a_pause_repeats_the_frame_on_screen_at_later_times() -> None:
    assert sample([0.0, 0.5, 4.2], 0.1, 1.0, 0.0, 0.1) == [
        (0, 0.0),
        (1, 0.5),
        (1, 2.0),
        (1, 3.0),
        (1, 4.0),
    ]


def test_a_rate_above_the_clips_own_repeats_frames_without_showing_them_early() -> None:
    sampled = sample([0.0, 1.0, 2.0], 1.0, 4.0, 0.0, 1.0)
    assert [frame for frame, _ in sampled] == [0] * 4 + [1] * 4 + [2] * 4
    assert [time_s for _, time_s in sampled] == [k / 4 for k in range(12)]


def test_the_frame_shown_at_the_start_keeps_no_time_before_it() -> None:
    assert sample([0.0, 0.3, 5.0], 1.0, 1.0, 2.0, math.inf)[:2] == [(1, 2.0), (1, 3.0)]


def test_a_last_frame_of_unknown_duration_lasts_one_frame() -> None:
    assert len(sample([0.0, 1.0, 2.0], None, 1.0, 0.0, 1.0)) == 3
    assert len(sample([0.0], None, 1.0, 0.0, math.inf)) == 1


def test_no_frames_give_no_samples() -> None:
    assert list(shown_at_rate([], fps=1.0, start_s=0.0, interval_s=1.0)) == []


def test_every_frame_from_a_start() -> None:
    timed = [Timed(i / 10, None, i) for i in range(10)]
    assert [entry.item for entry in from_start(timed, 0.3)] == list(range(3, 10))


def clock(duration_s: float | None = None, origin_s: float | None = None) -> PresentationClock:
    return PresentationClock(origin_s=origin_s, interval_s=0.1, duration_s=duration_s)


def stamps(ticking: PresentationClock, raw: list[float | None]) -> list[float]:
    return [ticking.stamp(raw_s) for raw_s in raw]


def test_time_starts_at_the_first_frame() -> None:
    assert stamps(clock(), [7.0, 7.5, 8.0]) == [0.0, 0.5, 1.0]
    assert stamps(clock(origin_s=5.0), [7.0, 7.5]) == [2.0, 2.5]


def test_missing_and_repeated_timestamps_are_filled_in() -> None:
    assert stamps(clock(), [None, None, None]) == pytest.approx([0.0, 0.1, 0.2])
    assert stamps(clock(), [1.0, 1.0, None, 1.3]) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert clock().stamp(None) == 0.0


def test_a_missing_timestamp_uses_the_frames_own_duration() -> None:
    ticking = clock()
    ticking.stamp(None)
    assert ticking.stamp(None, lasts_s=0.5) == 0.5


def test_timestamps_that_appear_late_continue_the_count() -> None:
    assert stamps(clock(), [None, None, 50.0, 50.1]) == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("broken_s", [2.0, 95_443.7])
def test_a_broken_clock_goes_on_after_the_last_frame(broken_s: float) -> None:
    raw = [10.0, 10.1, broken_s, broken_s + 0.1]
    assert stamps(clock(duration_s=60.0), raw) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert stamps(clock(), raw) == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_long_pause_inside_the_declared_duration_is_kept() -> None:
    assert stamps(clock(duration_s=5000.0), [0.0, 4999.0]) == [0.0, 4999.0]
    assert stamps(clock(), [0.0, 600.0]) == [0.0, 600.0]
    assert stamps(clock(duration_s=10.0), [0.0, 40.0]) == [0.0, 40.0]


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=40),
    st.none() | st.floats(0, 1e4),
)
def test_times_always_increase(raw: list[float | None], duration_s: float | None) -> None:
    times = stamps(clock(duration_s), raw)
    assert times[0] == 0.0
    assert all(earlier < later for earlier, later in pairwise(times))


def test_the_live_grid_takes_one_frame_an_instant() -> None:
    grid = LiveGrid(1.0, 0.0)
    times = [i / 30 for i in range(95)]
    assert [t for t in times if grid.takes(t)] == pytest.approx([0.0, 1.0, 2.0, 3.0])


def test_the_live_grid_skips_what_a_stall_swallowed() -> None:
    grid = LiveGrid(1.0, 0.0)
    taken = [t for t in [0.0, 0.5, 7.3, 7.4, 7.5, 7.6, 7.7, 7.8, 7.9, 8.0] if grid.takes(t)]
    assert taken == [0.0, 7.3, 8.0]


def test_the_live_grid_bears_jitter_and_waits_for_its_start() -> None:
    jitter = [0.0, 0.0330, 0.0660, 0.1010, 0.1320, 0.1670, 0.1990]
    grid = LiveGrid(15.0, 0.0)
    assert [i for i, t in enumerate(jitter) if grid.takes(t)] == [0, 2, 4, 6]
    late = LiveGrid(1.0, 2.0)
    assert [t for t in [0.0, 1.0, 2.0, 2.5, 3.0] if late.takes(t)] == [2.0, 3.0]
    everything = LiveGrid(None, 0.05)
    assert [t for t in jitter if everything.takes(t)] == jitter[2:]
