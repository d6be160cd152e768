"""What train-pocket shows of a run's progress lines."""

from __future__ import annotations

import pytest

from hermes_lab.cli.training import TrainingView, describe
from hermes_lab.training.config import Recipe

SEEN = {
    "phase": "perception",
    "share": 0.5,
    "step": 12,
    "loss": 3.14159,
    "colour": 0.91,
    "kind": 0.5,
    "scene": 1.0,
    "counter": 0.25,
    "place_px": 4.2,
}
ANSWERED = {
    "phase": "decoder",
    "share": 0.25,
    "step": 40,
    "loss": 1.5,
    "frames": 32,
    "accuracy": {"now": 0.9, "long": 0.4},
}


def test_lines_are_told_in_words() -> None:
    text = describe(SEEN)
    for part in (" 50%", "step 12", "loss 3.14", "colours 0.91", "4.2 px"):
        assert part in text
    assert "old tower" not in text
    assert "old tower's tokens 0.75" in describe(SEEN | {"unexplained": 0.25})
    assert "NOW 0.90 LONG 0.40  at 32 frames" in describe(ANSWERED)
    unseen = {"phase": "development", "frames": 128, "accuracy": {"now": 0.5}}
    assert describe(unseen) == "NOW 0.50 on unseen streams of 128 frames"


def test_time_left_counts_from_the_first_line_seen(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    recipe = Recipe(perception_minutes=10, decoder_minutes=30)
    with TrainingView(recipe, clock=lambda: now) as view:
        assert view.overall("perception", 0.5) == pytest.approx(0.125)
        assert view.overall("decoder", 1.0) == pytest.approx(1.0)
        view(ANSWERED)  # taken up again with 7/16 of the whole behind it
        now = 600.0
        view(ANSWERED | {"share": 0.5})  # 3/16 of the whole took ten minutes; 6/16 are left
    first, second = capsys.readouterr().err.splitlines()
    assert "left" not in first
    assert second.endswith("about 20 min left")
