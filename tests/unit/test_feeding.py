"""What may be fed to a session, and the times at which it enters the stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hermes_lab.errors import LabError
from hermes_lab.stream.feeding import Fed, images_and_times
from hermes_lab.video import Frame

PICTURE = np.zeros((2, 2, 3), np.uint8)


class Stream:
    """The clock of a stream, which what was fed moves on."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(now_s=0.0, frames_seen=0, shift_s=0.0)

    def feed(self, frames: Any, times_s: Any = None) -> Fed:
        fed = images_and_times(frames, times_s, self.state)  # type: ignore[arg-type]
        self.state.now_s, self.state.shift_s = fed.times_s[-1], fed.shift_s
        self.state.frames_seen += len(fed.images)
        return fed

    def at(self, *times: Any) -> list[float]:
        return self.feed([PICTURE] * len(times), list(times)).times_s


def clip(times_s: Sequence[float], first: int = 0) -> list[Frame]:
    return [Frame(PICTURE, first + n, time_s) for n, time_s in enumerate(times_s)]


@pytest.mark.parametrize(
    ("bad", "shown"),
    [
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (10**400, "1000000"),
        ("3", "str"),
        (None, "NoneType"),
        (True, "True"),
        (np.True_, "bool"),
        (1j, "complex"),
        (np.array([1.0, 2.0]), "ndarray"),
        (torch.ones(2), "Tensor"),
        (Decimal("nan"), "Decimal"),
    ],
)
def test_times_must_be_seconds(bad: Any, shown: str) -> None:
    stream = Stream()
    with pytest.raises(LabError, match=r"A presentation time is .*; give seconds") as caught:
        stream.at(0.0, 1.0, bad)
    assert shown in str(caught.value) and len(str(caught.value)) < 120
    if isinstance(bad, float):
        with pytest.raises(LabError, match="A presentation time is"):
            stream.feed([Frame(PICTURE, 0, bad)])


def test_every_kind_of_number_is_taken() -> None:
    times = [0, 0.5, np.float32(1), np.int64(2), Fraction(5, 2), Decimal(3), torch.tensor(4.0)]
    assert Stream().at(*times) == [0, 0.5, 1, 2, 2.5, 3, 4]
    assert Stream().feed([PICTURE] * 2, np.array([0.0, 1.0])).times_s == [0.0, 1.0]
    assert Stream().feed([PICTURE] * 2, (t for t in (0.0, 1.0))).times_s == [0.0, 1.0]


def test_times_may_stand_still_but_not_run_backwards() -> None:
    assert Stream().at(5.0, 5.0, 6.0) == [5.0, 5.0, 6.0]
    with pytest.raises(LabError, match=r"frame 1 of the chunk is at 2 s, after one at 3 s"):
        Stream().at(3, 2, 1, 0)
    with pytest.raises(LabError, match=r"frame 2 of the chunk is at 0.5 s, after one at 1 s"):
        Stream().feed(clip([0.0, 1.0, 0.5], first=7))


@pytest.mark.parametrize(
    ("frames", "times", "message"),
    [
        ([], None, "There are no frames to feed"),
        (None, None, "Frames must be a list or an array, got None"),
        (3, None, "Frames must be a list or an array, got 3"),
        ([PICTURE], 3.0, "Times must be a list or an array, got 3.0"),
        ([PICTURE], [0.0, 1.0], "1 frames were given 2 times"),
        ([PICTURE[..., 0]], None, "Frames must be RGB arrays"),
        ([PICTURE.astype(float)], None, "Frames must be RGB arrays"),
        ([PICTURE[:0]], None, "Frames must be RGB arrays"),
        (["x"], None, "Frames must be RGB arrays"),
    ],
)
def test_what_cannot_be_fed(frames: Any, times: Any, message: str) -> None:
    with pytest.raises(LabError, match=message):
        Stream().feed(frames, times)


def test_a_second_clip_follows_the_first() -> None:
    stream = Stream()
    assert stream.feed(clip([0.0, 0.5, 1.0])).note is None
    fed = stream.feed(clip([0.0, 0.25, 0.5]))
    assert fed.times_s == [1.25, 1.5, 1.75]
    assert fed.note == (
        "The times of the frames start over here; 1.25 s are added to them from here on."
    )
    # The shift is that of the clip: its next chunks keep their gaps, a pause among them.
    later = stream.feed(clip([0.75, 9.0], first=3))
    assert later.times_s == [2.0, 10.25] and later.note is None
    assert stream.feed(clip([0.0])).times_s == [11.25]
    assert stream.feed(clip([0.0])).times_s == [12.25]


def test_arrays_with_times_follow_likewise() -> None:
    stream = Stream()
    assert stream.at(0, 1, 2) == [0, 1, 2]
    assert stream.at(2, 3) == [2, 3]
    assert stream.at(0, 2, 4) == [5, 7, 9]
    assert stream.at(6, 8) == [11, 13]
    assert stream.feed([PICTURE] * 2).times_s == [14, 15]


def test_two_clips_in_one_chunk() -> None:
    fed = Stream().feed([*clip([0.0, 1.0]), *clip([0.0, 0.5])])
    assert fed.times_s == [0.0, 1.0, 1.5, 2.0] and fed.shift_s == 1.5


def test_given_times_count_more_than_those_of_frames() -> None:
    assert Stream().feed(clip([0.0, 1.0]), [7.0, 9.0]).times_s == [7.0, 9.0]
    assert Stream().feed(Frame(PICTURE, 0, 3.0)).times_s == [3.0]


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), max_size=8), st.booleans())
def test_the_stream_never_runs_backwards(chunks: list[list[int]], as_frames: bool) -> None:
    stream = Stream()
    seen: list[float] = []
    for chunk in chunks:
        times = sorted(set(chunk)) if as_frames else sorted(chunk)
        seen += stream.feed(clip(times)).times_s if as_frames else stream.at(*times)
        gaps = [b - a for a, b in pairwise(times)]
        assert [b - a for a, b in pairwise(seen[-len(times) :])] == pytest.approx(gaps)
    assert all(a < b if as_frames else a <= b for a, b in pairwise(seen))
