"""Worlds are deterministic, of any length, evenly busy, and show what their schedule says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_lab.errors import LabError
from hermes_lab.worlds import DEV_SEEDS, HELD_OUT_SEEDS, TRAIN_SEEDS, World
from hermes_lab.worlds.catalogue import COLOURS, ICONS, KINDS, SPRITE_SIZES_PX, sprites
from hermes_lab.worlds.render import corner, hidden_share
from hermes_lab.worlds.schedule import MAX_VISIBLE, Camera
from hermes_lab.worlds.seeds import train_seed

CAMERAS: tuple[Camera, ...] = ("still", "pan", "panzoom")


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_same_seed_gives_the_same_frames_and_another_seed_others(camera: Camera) -> None:
    first = World.generate(11, 12, camera).render()
    assert first.shape == (12, 96, 96, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, World.generate(11, 12, camera).render())
    assert (first != World.generate(12, 12, camera).render()).any()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), short=st.integers(1, 40), more=st.integers(1, 60))
def test_a_longer_world_begins_with_the_shorter_one(seed: int, short: int, more: int) -> None:
    one, two = World.generate(seed, short), World.generate(seed, short + more)
    for t in {0, short // 2, short - 1}:
        np.testing.assert_array_equal(one.frame(t), two.frame(t))
    early = [e for e in two.events if e.frame < short]
    assert list(one.events) == early


def test_events_are_as_dense_in_a_long_world_as_in_a_short_one() -> None:
    def rate(frames: int, density: float = 1.0) -> float:
        worlds = [World.generate(s, frames, density=density) for s in range(20)]
        return float(np.mean([len(w.schedule.things) / frames for w in worlds]))

    assert rate(60) == pytest.approx(rate(600), rel=0.1)
    assert rate(200, 2.0) > 1.3 * rate(200)


@pytest.mark.parametrize("camera", CAMERAS)
def test_what_is_visible_obeys_the_rules_that_make_answers_exact(camera: Camera) -> None:
    repeated = 0
    for seed in range(20):
        schedule = World.generate(seed, 120, camera).schedule
        kinds = [o.kind for o in schedule.things]
        repeated += len(set(kinds)) < len(kinds)
        for t in range(120):
            present = schedule.visible(t)
            assert len(present) <= MAX_VISIBLE
            assert len({o.kind for o in present}) == len(present)
            assert len({o.colour_at(t) for o in present}) == len(present)
        ends = [o.end for o in schedule.things]
        starts = [o.start for o in schedule.things]
        assert len(set(ends)) == len(ends)
        assert starts == sorted(set(starts))
        moments = [o.recoloured for o in schedule.things if o.recoloured >= 0]
        assert len(set(moments)) == len(moments)
    assert repeated > 10


def test_an_object_is_drawn_in_its_colour_where_the_schedule_puts_it() -> None:
    palette = np.array(list(COLOURS.values()))
    checked = 0
    for seed in range(6):
        world = World.generate(seed, 40)
        for t in range(0, 40, 5):
            for thing in world.schedule.visible(t):
                others = [o for o in world.schedule.visible(t) if o is not thing]
                here = thing.at[t - thing.start]
                if any(np.abs(o.at[t - o.start] - here).max() < 30 for o in others):
                    continue
                x, y, size = corner(world.schedule, thing, t)
                solid = sprites(size)[thing.kind] == 255
                pixels = world.frame(t)[y : y + size, x : x + size][solid]
                assert np.abs(pixels.astype(int) - palette[thing.colour_at(t)]).max() <= 1
                checked += 1
    assert checked > 30


def test_most_movers_move_at_least_five_pixels_a_frame() -> None:
    steps = []
    for seed in range(10):
        for thing in World.generate(seed, 60).schedule.things:
            steps += np.abs(np.diff(thing.at, axis=0)).max(1).tolist()
    moving = np.array(steps)[np.array(steps) > 0]
    assert np.mean(moving >= 5) > 0.75
    assert 0.5 < len(moving) / len(steps) < 0.95


def test_objects_hide_behind_others_now_and_then() -> None:
    shares = []
    for seed in range(20):
        schedule = World.generate(seed, 60).schedule
        shares += [hidden_share(schedule, o, t) for t in range(60) for o in schedule.visible(t)]
    assert 0.005 < np.mean(np.array(shares) > 0.35) < 0.15


def test_a_moving_camera_moves_the_background_and_zoom_changes_sizes() -> None:
    still, pan, zoom = (World.generate(3, 40, c) for c in CAMERAS)
    assert {
        corner(still.schedule, o, t)[2] for t in range(40) for o in still.schedule.visible(t)
    } == {26}
    sizes = {corner(zoom.schedule, o, t)[2] for t in range(40) for o in zoom.schedule.visible(t)}
    assert len(sizes) >= 4
    assert sizes <= set(SPRITE_SIZES_PX)
    assert np.abs(np.diff(pan.schedule.camera[:, :2], axis=0)).sum() > 20
    for world in (pan, zoom):
        for t in range(40):
            for thing in world.schedule.visible(t):
                x, y, size = corner(world.schedule, thing, t)
                assert -size / 2 < x < 96 - size / 2
                assert -size / 2 < y < 80 - size / 2


def test_the_sheet_has_every_kind_and_no_two_alike() -> None:
    assert len(ICONS) >= 24
    for size in SPRITE_SIZES_PX:
        sheet = sprites(size)
        assert sheet.shape == (len(KINDS), size, size)
    flat = (sprites(26) > 127).reshape(len(KINDS), -1)
    apart = (flat[:, None] != flat[None]).sum(-1) + 10**6 * np.eye(len(KINDS), dtype=int)
    assert apart.min() > 40


def test_seed_ranges_are_disjoint_and_training_stays_in_its_own() -> None:
    assert HELD_OUT_SEEDS.stop <= DEV_SEEDS.start
    assert DEV_SEEDS.stop <= TRAIN_SEEDS.start
    drawn = {train_seed(r, p, i) for r in range(3) for p in range(4) for i in (0, 1, 2**36 - 1)}
    assert len(drawn) == 36
    assert all(s in TRAIN_SEEDS for s in drawn)


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"seed": 1, "frames": 0}, "at least 1 frame"),
        ({"seed": 1, "frames": 4, "density": 9.0}, "density"),
        ({"seed": 1, "frames": 4, "camera": "drone"}, "camera 'drone'"),
        ({"seed": -1, "frames": 4}, "negative"),
    ],
)
def test_impossible_worlds_are_refused_in_words(settings_: dict[str, object], said: str) -> None:
    with pytest.raises(LabError, match=said):
        World.generate(**settings_)  # type: ignore[arg-type]


def test_json_tells_the_whole_story() -> None:
    world = World.generate(5, 30)
    questions = world.questions(5, [20, 29], per_time=2)
    told = json.loads(world.to_json(questions))
    assert told["seed"] == 5
    assert told["frames"] == 30
    assert len(told["events"]) == len(world.events)
    assert [q["text"] for q in told["questions"]] == [q.text for q in questions]
    assert all(q["majority"] for q in told["questions"])
