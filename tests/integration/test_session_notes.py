"""What a session writes down beside its decisions: a change of policy, the cost of recording."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import hermes_lab
from hermes_lab import StreamSession
from hermes_lab.recording import Recording


def test_a_change_of_policy_is_noted_once_and_recorded(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    lab = hermes_lab.load(checkpoint("llava_onevision"))
    frames = np.random.default_rng(0).integers(0, 256, (12, 56, 56, 3), dtype=np.uint8)
    with StreamSession(lab, "fifo(budget_tokens=20)", record=tmp_path / "run") as run:
        first = run.feed(frames[:4])
        run.set_policy("random(budget_tokens=30)", "eager")
        second = run.feed(frames[4:8])
        third = run.feed(frames[8:])
    assert first.notes == third.notes == ()
    (note,) = second.notes
    assert "random" in note
    assert "budget_tokens=30" in note
    assert "eager" in note
    assert Recording.open(tmp_path / "run").steps[1].notes == second.notes
    assert first.timings.record_s == 0.0
    assert second.timings.record_s > 0.0
