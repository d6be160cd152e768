"""The policy lab's comparison from Python: every contestant has the budget of the comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dashboards.lab import contest
from hermes_lab import policies
from hermes_lab.lab import Lab

Labs = Callable[[str], tuple[Lab, Path]]


def test_contestants_without_a_budget_are_given_the_contests_own(labs: Labs) -> None:
    wanted = {"mine": "fifo", "theirs": "fifo(budget_tokens=30)", "gated": "instant(inner=knorm)"}
    result = contest.hold(
        labs("llava_onevision")[0], {n: policies.get(s) for n, s in wanted.items()}, 60,
        source="world:seed=7,frames=16", fps=1.0, chunk_frames=8, worlds=[], questions=[],
        progress=lambda share, what: None,
    )  # fmt: skip
    specs = {run.name: run.spec for run in result.runs}
    assert specs["mine"] == "fifo(budget_tokens=60)"
    assert specs["theirs"] == "fifo(budget_tokens=30)"
    assert "budget_tokens=60" in specs["gated"]
    held = {run.name: run.held.sum(1).tolist() for run in result.runs}
    assert set(held["mine"]) == {60}
    assert set(held["full"]) == {16 * 9}


def test_recent_frames_are_counted_as_frames_where_pairs_share_their_tokens(labs: Labs) -> None:
    lab, _ = labs("qwen2_5_vl")
    layout = lab.adapter.frame_layout(224, 224)
    rivals = contest.companions(lab, 6 * layout.visual_tokens, (224, 224))
    assert layout.frames_per_group == 2
    assert rivals["recent_frames"].config()["frames"] == 12
