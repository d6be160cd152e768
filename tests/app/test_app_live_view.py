"""The live view of the Live page: what one message holds, for a replay, a running stream, and frames on their way."""

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

from dashboards.live.arriving import ArrivingFrames, live_arriving, replayed_arriving
from dashboards.live.filmstrip import FILMSTRIP_FRAMES, filmstrip_of
from dashboards.live.message import Message, Thumbnails, numbers, payload
from dashboards.live.moment import Moment, recorded_moment, room_frames
from dashboards.live.stream_view import StreamSettings, StreamView
from dashboards.live.worker import StreamWorker
from hermes_lab.recording import Recording, TokenState
from tests.app.pages import live_view_of, press, sound, unpacked

PATIENCE_S = 60.0


@pytest.fixture
def recording(recorded: Path) -> Recording:
    return Recording.open(recorded / "first")


@pytest.fixture
def moment(recording: Recording) -> Moment:
    """After three chunks of four frames, at one frame a second."""
    return recorded_moment(recording, recording.retention(), 2)


def sent_for(moment: Moment | None, arriving: ArrivingFrames, **more) -> tuple[dict, bytes]:
    pictures = Thumbnails("s", (lambda _: None) if moment is None else moment.picture)
    shown = {} if moment is None else numbers(moment, None)
    return unpacked(
        payload(Message(moment=moment, arriving=arriving, numbers=shown, **more), pictures)
    )


def test_a_replay_knows_what_came_since_the_last_step_and_when_the_next_frame_is_due(
    recording: Recording, moment: Moment
) -> None:
    assert moment.frame == 11
    arriving = replayed_arriving(recording, moment, 13.5, 2.0)
    assert (arriving.frames, arriving.times_s, arriving.slots) == ((12, 13), (12.0, 13.0), 4)
    assert arriving.due_in_s == pytest.approx(0.25)  # half a stream second at two of them a second
    assert arriving.every_s == pytest.approx(0.5)
    assert replayed_arriving(recording, moment, 11.0, 2.0).frames == ()
    assert replayed_arriving(recording, moment, 13.5, 0.0).due_in_s is None
    assert replayed_arriving(recording, moment, 1e6, 2.0).due_in_s is None


def test_what_is_on_its_way_stands_right_behind_the_tokens_that_came(
    recording: Recording, moment: Moment
) -> None:
    arriving = replayed_arriving(recording, moment, 13.5, 2.0)
    head, body = sent_for(moment, arriving)
    cells = head["layers"] * head["columns"]
    states = np.frombuffer(body[:cells], np.uint8).reshape(head["layers"], -1) & 7
    end = int(head["arriving"]["end"])
    assert (states[:, end - 1] != TokenState.ABSENT).any()  # a summary token is in one layer only
    assert (states[:, end:] == TokenState.ABSENT).all()
    assert head["columns"] == len(moment.ids)  # one each, in so short a recording
    assert head["arriving"]["width"] == moment.grid[0] * moment.grid[1]
    assert head["arriving"]["due"] == {"in_s": 0.25, "every_s": 0.5}
    assert head["words"][5] == "on its way"
    assert len(head["light"]) == len(head["dark"]) == len(head["words"])
    assert len(set(head["light"])) == len(set(head["dark"])) == 6


@pytest.mark.parametrize(("newest", "decided"), [(False, 10), (True, 8)])
def test_the_filmstrip_ends_with_frames_on_their_way(
    recording: Recording, moment: Moment, newest: bool, decided: int
) -> None:
    filmstrip = filmstrip_of(moment, 1, newest)
    assert filmstrip is not None
    head, body = sent_for(
        moment, replayed_arriving(recording, moment, 13.5, 2.0), filmstrip=filmstrip, newest=newest
    )
    coming = [t["frame"] for t in head["tiles"] if t["share"] is None]
    assert coming == ([12, 13] if newest else [13])
    kept = [t for t in head["tiles"] if t["share"] is not None]
    assert len(kept) == decided
    rows, cols = head["grid"]
    for tile in kept:
        share = np.frombuffer(body[tile["share"] :][: rows * cols], np.uint8).reshape(rows, cols)
        assert (share == 255 * filmstrip.shares[filmstrip.frames.index(tile["frame"])]).all()
    assert head["now"]["frame"] == 13
    assert "2 of 4 of the next chunk" in head["now"]["caption"]
    for _, start, end in head["pictures"]:
        assert Image.open(io.BytesIO(body[start:end])).format == "JPEG"
    assert {t["frame"] for t in head["tiles"]} <= {f for f, *_ in head["pictures"]}


def test_before_the_first_step_there_are_only_frames_on_their_way() -> None:
    picture = np.full((48, 64, 3), 90, np.uint8)
    arriving = ArrivingFrames(frames=(0, 1), times_s=(0.0, 1.0), slots=4, due_in_s=0.5, every_s=1.0)
    sent = Message(moment=None, arriving=arriving, numbers={}, layers=3)
    head, body = unpacked(payload(sent, Thumbnails("s", lambda _: picture)))
    assert (head["layers"], head["arriving"]["end"]) == (3, 0)
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
    recording: Recording, moment: Moment
) -> None:
    filmstrip = filmstrip_of(moment, None, False)
    sent = Message(
        moment=moment,
        arriving=ArrivingFrames(slots=4),
        numbers=numbers(moment, None),
        filmstrip=filmstrip,
    )
    small = Thumbnails("s", moment.picture)
    first = payload(sent, small)
    assert payload(replace(sent), small) == first
    assert len(first) < 100_000
    assert len(unpacked(first)[0]["pictures"]) <= FILMSTRIP_FRAMES + 1


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
    views: list[StreamView] = []
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
        arriving = live_arriving(worker.latest(), 4)
        assert arriving.frames == (0, 1, 2, 3)
        assert arriving.due_in_s is not None
        assert arriving.due_in_s <= 0.25
        assert worker.picture(3) is not None
        worker.pause()
        go.set()
        until = time.monotonic() + PATIENCE_S
        while (view := worker.latest()).snapshot is None or view.status != "paused":
            assert time.monotonic() < until
            time.sleep(0.02)
        assert view.on_the_way == ()
        assert live_arriving(view, 4).due_in_s is None
    finally:
        go.set()
        worker.stop()


def test_a_tick_draws_one_element_and_leaves_the_words_alone(open_page) -> None:
    app: AppTest = sound(open_page("live", recording="first", step="2", layer="1", token="40"))
    head, _ = live_view_of(app)
    assert head["chosen"] is not None
    assert head["arriving"]["due"] is None
    press(app, "Play")
    assert live_view_of(app)[0]["arriving"]["due"] is not None
    assert "Token 40" in "".join(m.value for m in app.markdown)
