"""The thread that runs a stream: what it is told is done when it says so, and what it said stays said."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dashboards.live.stream_view import StreamSettings, StreamView
from dashboards.live.worker import StreamWorker
from hermes_lab import video
from hermes_lab.errors import LabError, ModelError

PATIENCE_S = 60.0
ASSUMED = "The times of this source are assumed."


@pytest.fixture
def begin(lab) -> Iterator[Callable[..., StreamWorker]]:
    """`begin(frames=8)`: a stream of a drawn world; its thread ends with the test."""
    started: list[StreamWorker] = []

    def go(
        lab_of: Callable[[str], Any] = lambda _: lab, frames: int = 8, **more: Any
    ) -> StreamWorker:
        given = {"policy": {"policy": "fifo", "budget_tokens": 48}, "start_paused": True, **more}
        settings = StreamSettings(
            source=f"world:seed=3,frames={frames}", label="w", model="tiny", chunk_frames=4, speed=0.0, **given
        )  # fmt: skip
        started.append(StreamWorker(settings, lab_of))
        return started[-1]

    yield go
    for worker in started:
        worker.stop()


def ended(worker: StreamWorker) -> StreamView:
    """Let a paused stream run to its end."""
    worker.play()
    until = time.monotonic() + PATIENCE_S
    while (view := worker.latest()).status != "finished":
        assert time.monotonic() < until, view
        time.sleep(0.02)
    return view


def test_a_command_is_done_when_the_view_says_so(begin) -> None:
    worker = begin(frames=4096)
    worker.pause().result(PATIENCE_S)
    assert worker.latest().status == "paused"
    worker.play().result(PATIENCE_S)
    assert worker.latest().status == "playing"
    worker.pause().result(PATIENCE_S)
    assert worker.latest().status == "paused"
    worker.set_policy({"policy": "uniform", "budget_tokens": 48}).result(PATIENCE_S)
    assert worker.latest().policy == "uniform(budget_tokens=48)"


def test_a_question_is_in_the_view_at_once_and_nobody_waits_for_a_stream_that_failed(begin) -> None:
    go = threading.Event()

    def broken(_: str) -> Any:
        assert go.wait(PATIENCE_S)
        raise ModelError("No such model.")

    worker = begin(broken)
    asked = worker.ask("who is there")
    assert worker.latest().answering == ""
    go.set()
    asked.result(PATIENCE_S)
    worker._thread.join(PATIENCE_S)
    view = worker.latest()
    assert (view.status, view.error, view.answering) == ("failed", "No such model.", None)
    worker.ask("and now").result(PATIENCE_S)
    assert worker.latest().answering is None
    with pytest.raises(LabError, match="start it again"):
        worker.submit(lambda session: None).result(PATIENCE_S)


def test_what_was_said_of_the_source_and_of_the_budget_stays_while_the_stream_lasts(
    begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with video.open("world:seed=3,frames=8") as source:
        monkeypatch.setattr(type(source), "notes", property(lambda _: (ASSUMED,)))
    worker = begin(frames=16, policy={"policy": "fifo"})
    worker.pause().result(PATIENCE_S)
    assert worker.latest().notes == (ASSUMED,)
    view = ended(worker)
    snapshot, notes = view.snapshot, view.notes
    assert snapshot is not None
    assert snapshot.step == 3
    assert snapshot.notes == ()  # the step that said it is over
    assert notes[0] == ASSUMED
    assert notes[1].startswith("At 3 s: fifo has no budget: 32 frames of")
    assert len(notes) == 2
    worker.set_policy({"policy": "uniform", "budget_tokens": 48}).result(PATIENCE_S)
    assert worker.latest().notes == (ASSUMED,)  # what was said of the other policy's budget is over
