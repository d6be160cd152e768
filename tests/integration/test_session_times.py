"""Presentation times as a session takes them: checked for every family, and one clock over all clips."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hermes_lab import StreamSession, video
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 56, 56, 3), dtype=np.uint8)


def test_times_that_cannot_be_change_nothing(model: tuple[Lab, Path]) -> None:
    session = StreamSession(model[0], "fifo(budget_tokens=200)")
    for times in ([math.nan] * 4, [0, 1, 2, math.inf], [3, 2, 1, 0], ["0", "1", "2", "3"]):
        with pytest.raises(LabError, match=r"[Tt]ime"):
            session.feed(FRAMES, times_s=times)  # type: ignore[arg-type]
    frames = [video.Frame(image, n, math.nan) for n, image in enumerate(FRAMES)]
    with pytest.raises(LabError, match="A presentation time is nan"):
        session.feed(frames)
    assert session.stream.frames_seen == 0


def test_a_second_clip_goes_on_in_time(model: tuple[Lab, Path]) -> None:
    session = StreamSession(model[0], "fifo(budget_tokens=200)")
    for _ in range(2):
        for chunk in video.from_arrays(FRAMES, fps=2).chunks(2):
            snapshot = session.feed(chunk)
            time_axis = snapshot.positions[0].reshape(-1, snapshot.positions[0].shape[-1])[0]
            assert (np.diff(time_axis) >= 0).all()
    assert session.stream.now_s == 3.5
    times = session.table.column("time_s")
    assert (np.diff(times[~np.isnan(times)]) >= 0).all()


def test_a_step_that_fails_leaves_the_clock_alone(
    labs: Callable[[str], tuple[Lab, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, _ = labs("llava_onevision")
    session = StreamSession(lab, "fifo(budget_tokens=200)")
    clip = list(video.from_arrays(FRAMES, fps=2).chunks(2))
    session.feed(clip[0])
    with monkeypatch.context() as broken:
        broken.setattr(lab.adapter, "encode", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.feed(clip[0])
    assert session.stream.shift_s == 0.0
    assert session.feed(clip[1]).time_s == 1.5
    shifted = session.feed(clip[0])
    assert shifted.time_s == 2.5 and "2 s are added" in shifted.notes[-1]
    assert session.fork().feed(clip[1]).time_s == 3.5
