"""The Live page's stage: what one message holds, for a replay, a running stream, and frames on their way."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboards.live.arriving import OnTheWay, live_way, replayed_way
from dashboards.live.filmstrip import FILM_FRAMES, film_of
from dashboards.live.message import Moment, Thumbnails, numbers, payload, span
from dashboards.live.moment import Scene, recorded_scene, room_frames
from dashboards.live.stream_view import StreamSettings, View
from dashboards.live.worker import StreamWorker
from hermes_lab.recording import Recording, TokenState
from tests.app.pages import press, sound, stage_of, unpacked

PATIENCE_S = 60.0


@pytest.fixture
def recording(recorded: Path) -> Recording:
    return Recording.open(recorded / "first")


@pytest.fixture
def scene(recording: Recording) -> Scene:
    """After three chunks of four frames, at one frame a second."""
    return recorded_scene(recording, recording.retention(), 2)


def message(scene: Scene | None, way: OnTheWay, **more) -> tuple[dict, bytes]:
    pictures = Thumbnails("s", (lambda _: None) if scene is None else scene.picture)
    shown = {} if scene is None else numbers(scene, None)
    return unpacked(payload(Moment(scene=scene, way=way, numbers=shown, **more), pictures))


def test_a_replay_knows_what_came_since_the_last_step_and_when_the_next_frame_is_due(
    recording: Recording, scene: Scene
) -> None:
    assert scene.frame == 11
    way = replayed_way(recording, scene, 13.5, 2.0)
    assert (way.frames, way.times_s, way.slots) == ((12, 13), (12.0, 13.0), 4)
    assert way.due_in_s == pytest.approx(0.25)  # half a stream second at two of them a second
    assert way.every_s == pytest.approx(0.5)
    assert replayed_way(recording, scene, 11.0, 2.0).frames == ()
    assert replayed_way(recording, scene, 13.5, 0.0).due_in_s is None
    assert replayed_way(recording, scene, 1e6, 2.0).due_in_s is None


def test_what_is_on_its_way_stands_right_behind_the_tokens_that_came(
    recording: Recording, scene: Scene
) -> None:
    way = replayed_way(recording, scene, 13.5, 2.0)
    head, body = message(scene, way)
    cells = head["layers"] * head["columns"]
    states = np.frombuffer(body[:cells], np.uint8).reshape(head["layers"], -1) & 7
    end = int(head["way"]["end"])
    assert (states[:, end - 1] != TokenState.ABSENT).any()  # a summary token is in one layer only
    assert (states[:, end:] == TokenState.ABSENT).all()
    assert head["columns"] == len(scene.ids)  # one each, in so short a recording
    assert head["way"]["width"] == scene.grid[0] * scene.grid[1]
    assert head["way"]["due"] == {"in_s": 0.25, "every_s": 0.5}
    assert head["words"][5] == "on its way"
    assert len(head["light"]) == len(head["dark"]) == len(head["words"])
    assert len(set(head["light"])) == len(set(head["dark"])) == 6


@pytest.mark.parametrize(("newest", "decided"), [(False, 10), (True, 8)])
def test_the_filmstrip_ends_with_frames_on_their_way(
    recording: Recording, scene: Scene, newest: bool, decided: int
) -> None:
    film = film_of(scene, 1, newest)
    assert film is not None
    head, body = message(scene, replayed_way(recording, scene, 13.5, 2.0), film=film, newest=newest)
    coming = [t["frame"] for t in head["tiles"] if t["share"] is None]
    assert coming == ([12, 13] if newest else [13])
    kept = [t for t in head["tiles"] if t["share"] is not None]
    assert len(kept) == decided
    rows, cols = head["grid"]
    for tile in kept:
        share = np.frombuffer(body[tile["share"] :][: rows * cols], np.uint8).reshape(rows, cols)
        assert (share == 255 * film.shares[film.frames.index(tile["frame"])]).all()
    assert head["now"]["frame"] == 13
    assert "2 of 4 of the next chunk" in head["now"]["caption"]
    for _, start, end in head["pictures"]:
        assert Image.open(io.BytesIO(body[start:end])).format == "JPEG"
    assert {t["frame"] for t in head["tiles"]} <= {f for f, *_ in head["pictures"]}


def test_before_the_first_step_there_are_only_frames_on_their_way() -> None:
    picture = np.full((48, 64, 3), 90, np.uint8)
    way = OnTheWay(frames=(0, 1), times_s=(0.0, 1.0), slots=4, due_in_s=0.5, every_s=1.0)
    moment = Moment(scene=None, way=way, numbers={}, layers=3)
    head, body = unpacked(payload(moment, Thumbnails("s", lambda _: picture)))
    assert (head["layers"], head["way"]["end"]) == (3, 0)
    assert [t["frame"] for t in head["tiles"]] == [1]
    assert not any(body[: 3 * head["columns"]])


def test_a_frame_is_made_small_once() -> None:
    asked: list[int] = []

    def picture(frame: int) -> np.ndarray | None:
        asked.append(frame)
        return np.zeros((720, 1280, 3), np.uint8) if frame else None

    small = Thumbnails("s", picture)
    assert small(1) == small(1)
    assert asked == [1]
    assert Image.open(io.BytesIO(small(1) or b"")).size == (327, 184)
    assert small(0) is None


def test_a_message_is_small_and_the_same_where_nothing_changed(
    recording: Recording, scene: Scene
) -> None:
    film = film_of(scene, None, False)
    moment = Moment(scene=scene, way=OnTheWay(slots=4), numbers=numbers(scene, None), film=film)
    small = Thumbnails("s", scene.picture)
    first = payload(moment, small)
    assert payload(replace(moment), small) == first
    assert len(first) < 100_000
    assert len(unpacked(first)[0]["pictures"]) <= FILM_FRAMES + 1


@pytest.mark.parametrize(
    ("seen", "expected", "room"),
    [
        (4, 4096, 64),
        (64, 4096, 128),
        (65, 4096, 128),
        (100, 120, 120),
        (10, None, 10),
        (0, None, 0),
    ],
)
def test_a_strip_keeps_room_for_about_as_much_as_came(
    seen: int, expected: int | None, room: int
) -> None:
    assert room_frames(seen, expected) == room


def test_spans_of_numbers() -> None:
    assert (span([3, 1, 2]), span([1000]), span(iter([]))) == ("1 to 3", "1,000", "0")


def test_frames_of_a_running_stream_are_seen_one_by_one_before_their_chunk_is_decided(
    lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model waits in `feed` until the test has looked, so that the order does not depend on the machine."""
    from hermes_lab.stream.session import StreamSession

    go, feeding = threading.Event(), threading.Event()
    feed = StreamSession.feed

    def patient(self, frames):
        feeding.set()
        assert go.wait(PATIENCE_S)
        return feed(self, frames)

    monkeypatch.setattr(StreamSession, "feed", patient)
    settings = StreamSettings(
        source="world:seed=3,frames=8", label="w", model="tiny", policy={"policy": "fifo", "budget_tokens": 48},
        chunk_frames=4, speed=4.0,
    )  # fmt: skip
    views: list[View] = []
    publish = StreamWorker._publish

    def noted(self, **changes) -> None:
        publish(self, **changes)
        views.append(self.latest())

    monkeypatch.setattr(StreamWorker, "_publish", noted)
    worker = StreamWorker(settings, lambda _: lab)
    try:
        assert feeding.wait(PATIENCE_S)
        arrivals = [v for v in views if v.on_the_way]
        assert [[f for f, _ in v.on_the_way] for v in arrivals] == [
            [0],
            [0, 1],
            [0, 1, 2],
            [0, 1, 2, 3],
        ]
        assert all(v.snapshot is None and v.layers == 3 for v in arrivals)
        assert all(v.next_due is not None and v.every_s == 0.25 for v in arrivals)
        way = live_way(worker.latest(), 4)
        assert way.frames == (0, 1, 2, 3)
        assert way.due_in_s is not None
        assert way.due_in_s <= 0.25
        assert worker.picture(3) is not None
        worker.pause()
        go.set()
        until = time.monotonic() + PATIENCE_S
        while (view := worker.latest()).snapshot is None or view.status != "paused":
            assert time.monotonic() < until
            time.sleep(0.02)
        assert view.on_the_way == ()
        assert live_way(view, 4).due_in_s is None
    finally:
        go.set()
        worker.stop()


def test_a_tick_draws_one_element_and_leaves_the_words_alone(open_page) -> None:
    app: AppTest = sound(open_page("live", recording="first", step="2", layer="1", token="40"))
    head, _ = stage_of(app)
    assert head["chosen"] is not None
    assert head["way"]["due"] is None
    press(app, "Play")
    assert stage_of(app)[0]["way"]["due"] is not None
    assert "Token 40" in "".join(m.value for m in app.markdown)
