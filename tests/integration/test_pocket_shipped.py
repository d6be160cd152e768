"""The shipped model answers: from arrays, from the bundled MP4, in batches and in a streaming session alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import hermes_lab
from hermes_lab import video
from hermes_lab.errors import LabError
from hermes_lab.evaluation.worlds import compare, evaluate_worlds, policy_text
from hermes_lab.lab import Lab
from hermes_lab.pocket.shipped import names, shipped_path, trained_frames
from hermes_lab.stream.session import StreamSession
from hermes_lab.training.exam import examine
from hermes_lab.worlds import UNLEARNED, World, bundled


@pytest.fixture(scope="module")
def lab() -> Lab:
    return hermes_lab.load("pocket")


def test_the_shipped_folder_is_small_and_reads_offline_in_float32(lab: Lab) -> None:
    size = sum(f.stat().st_size for name in names() for f in shipped_path(name).iterdir())
    assert size < 40_000_000
    assert lab.adapter.dtype == torch.float32
    assert lab.layers >= 12
    assert trained_frames("pocket") >= 64


@pytest.mark.parametrize("name", names())
def test_each_sees_and_remembers_far_better_than_blind_answers(name: str) -> None:
    result = examine(name, streams=6, frames=64)
    for horizon, margin in (("now", 0.5), ("recent", 0.4), ("long", 0.2)):
        score = result.by_horizon[horizon]
        assert score.share > score.majority + margin, (horizon, score)
        assert score.low <= score.share <= score.high
    assert "NOW" in result.table()
    assert json.loads(json.dumps(result.to_json()))["questions"] == result.questions


def test_the_bundled_video_holds_the_worlds_frames() -> None:
    world = World.generate(bundled.SEED, bundled.FRAMES)
    frames = list(video.open(bundled.clip_path(), fps=bundled.FPS))
    assert len(frames) == bundled.FRAMES
    assert bundled.clip_path().stat().st_size < 2_000_000
    for t in (0, 59, 119):
        small = frames[t].image.reshape(96, 4, 96, 4, 3).mean((1, 3))
        assert np.abs(small - world.frame(t)).mean() < 3
    told = json.loads(bundled.truth_path().read_text())
    assert told["seed"] == bundled.SEED
    assert [e["frame"] for e in told["events"]] == [e.frame for e in world.events]


def test_the_bundled_video_is_answered_as_well_as_the_frames_themselves(lab: Lab) -> None:
    world = World.generate(bundled.SEED, bundled.FRAMES)
    told = json.loads(bundled.truth_path().read_text())["questions"]
    by_time: dict[int, list[dict[str, str]]] = {}
    for question in told:
        if question["type"] not in UNLEARNED:
            by_time.setdefault(question["time_frame"], []).append(question)
    decoded = [f.image for f in video.open(bundled.clip_path(), fps=bundled.FPS)]
    right = {"video": 0, "frames": 0}
    for name, source in (("video", decoded), ("frames", list(world.render()))):
        session = StreamSession(lab)
        fed = 0
        for t in sorted(by_time)[::2]:
            session.feed(source[fed : t + 1])
            fed = t + 1
            for question in by_time[t]:
                right[name] += (
                    session.ask(question["text"], max_new_tokens=3).text == question["answer"]
                )
    asked = sum(len(by_time[t]) for t in sorted(by_time)[::2])
    assert right["video"] > 0.6 * asked
    assert abs(right["video"] - right["frames"]) <= 0.1 * asked


def test_demo_questions_cover_the_horizons_and_the_clip() -> None:
    questions = bundled.demo_questions()
    assert len(questions) == 6
    assert {q.horizon for q in questions} == {"now", "recent", "long"}
    times = [q.time_s for q in questions]
    assert times == sorted(times)
    assert times[-1] > 90
    assert all(q.text[0].isupper() and q.text.endswith("?") for q in questions)


def test_policies_are_compared_on_the_same_questions(lab: Lab) -> None:
    compared = compare(lab, ["full", "fifo"], streams=2, frames=32)
    full, fifo = compared.results
    assert full.questions == fifo.questions
    assert fifo.policy == policy_text("fifo", 32, lab) == "fifo(budget_tokens=136)"
    assert "fifo" in compared.table()


def test_without_a_policy_everything_is_kept(lab: Lab) -> None:
    assert evaluate_worlds(lab, streams=1, frames=16).policy == "full"
    (result,) = compare(lab, streams=1, frames=16).results
    assert result.policy == "full"


@pytest.mark.parametrize("name", ["pocket", "pocket-mrope"])
def test_a_quarter_of_a_stream_is_counted_in_the_models_own_tokens(name: str) -> None:
    lab = hermes_lab.load(name)
    world = World.generate(1000, 32)
    frames = len(lab.adapter.encode([world.frame(t) for t in range(32)], list(range(32))))
    budget = len(lab.adapter.prefix()) + frames // 4
    assert policy_text("fifo", 32, lab) == f"fifo(budget_tokens={budget})"


def test_impossible_evaluations_are_refused_in_words(lab: Lab) -> None:
    with pytest.raises(LabError, match="at least 1 stream"):
        evaluate_worlds(lab, streams=0)
    with pytest.raises(LabError, match="held-out range"):
        evaluate_worlds(lab, streams=2, first_seed=999_999)
