"""What a session writes down beside its decisions: a change of policy, the cost of recording."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hermes_lab
from hermes_lab import StreamSession
from hermes_lab.lab import Lab
from hermes_lab.recording import Recording
from tests.reference.streams import noise


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


@pytest.fixture
def short(checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A model made for so few positions that the second chunk leaves them."""
    lab = hermes_lab.load(checkpoint("llava_onevision"))
    monkeypatch.setattr(type(lab.engine), "position_limit", 60)
    return lab


def test_positions_beyond_the_limit_are_noted_once_per_stream(short: Lab, tmp_path: Path) -> None:
    with StreamSession(short, "fifo(budget_tokens=20)", record=tmp_path / "run") as run:
        first = run.feed(noise(4, 0))
        fork = run.fork()
        steps = [run.feed(noise(4, seed)) for seed in range(1, 5)]
    assert first.notes == ()
    (note,) = steps[0].notes
    assert note == (
        "From this step on tokens stand beyond the 60 positions the model was made for, and answers may get "
        "worse; choose positions='lazy'."
    )
    assert all(step.notes == () for step in steps[1:])
    assert [s.notes for s in Recording.open(tmp_path / "run").steps][1:3] == [(note,), ()]
    # a fork that has not got there yet is told when it does, one that has is not told again
    assert [fork.feed(noise(4, seed)).notes for seed in (7, 8)] == [(note,), ()]
    assert run.fork().feed(noise(4, 9)).notes == ()


def test_a_note_of_a_step_that_was_undone_is_said_again(short: Lab, tmp_path: Path) -> None:
    run = StreamSession(short, "fifo(budget_tokens=20)")
    run.feed(noise(4, 0))
    undo = run.stream.mark()
    said = run.feed(noise(4, 1)).notes
    undo()
    assert len(said) == 1
    assert run.feed(noise(4, 1)).notes == said


def test_rules_that_stay_within_the_limit_say_nothing(short: Lab) -> None:
    for rule in ("eager", "contiguous", "lazy"):
        run = StreamSession(short, "fifo(budget_tokens=9)", positions=rule)
        assert [run.feed(noise(1, seed)).notes for seed in range(8)] == [()] * 8
    run = StreamSession(short, "full", positions="lazy")
    notes = [note for seed in range(4) for note in run.feed(noise(4, seed)).notes]
    assert len(notes) == 1
    assert notes[0].endswith("; lower the budget.")
