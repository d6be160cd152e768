"""What a session records is whole: a full disk, a disk that forgets, and Ctrl-C leave no step out."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes_lab import StreamSession
from hermes_lab.errors import RecordingError
from hermes_lab.lab import Lab
from hermes_lab.recording import Recording, RecordingWriter, syncing
from hermes_lab.snapshot import Snapshot
from hermes_lab.stream.recorder import MOST_DUE
from tests.recording_streams import Stream, differences, manifest
from tests.reference.streams import QUESTION, noise

Labs = Callable[[str], tuple[Lab, Path]]


@pytest.fixture
def lab(labs: Labs) -> Lab:
    return labs("llava_onevision")[0]


def started(lab: Lab, folder: Path, **options: Any) -> StreamSession:
    return StreamSession(lab, "fifo(budget_tokens=60)", record=folder, **options)


def check(folder: Path, steps: list[Snapshot]) -> Recording:
    """The recording holds these steps and nothing is wrong with it."""
    read = Recording.open(folder)
    assert [step.step for step in read.steps] == [step.step for step in steps]
    assert read.verify() == [] and read.notes == ()
    for recorded, happened in zip(read.steps, steps, strict=True):
        assert (recorded.new_ids == happened.new_ids).all()
        for layer in range(read.layers):
            assert (recorded.held[layer] == happened.held[layer]).all()
    return read


def refusing(patch: pytest.MonkeyPatch, code: int = errno.ENOSPC) -> None:
    """No file can be renamed into its place."""

    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    patch.setattr(os, "replace", refuse)


def test_steps_that_a_full_disk_refused_are_written_when_it_has_room_again(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = started(lab, tmp_path / "run")
    steps = [session.feed(noise(2, 0))]
    with monkeypatch.context() as patch:
        refusing(patch)
        for seed in (1, 2, 3):
            with pytest.raises(RecordingError, match="disk is full"):
                session.feed(noise(2, seed))
            assert session.snapshot is not None
            steps.append(session.snapshot)
        with pytest.raises(RecordingError, match="disk is full"):
            session.ask(QUESTION, remember=True)
        assert not session.stream.history
    steps.append(session.feed(noise(2, 4)))
    session.ask(QUESTION)
    session.close()
    read = check(tmp_path / "run", steps)
    assert (read.status, len(read.answers)) == ("finished", 1)


def test_what_is_due_is_written_at_the_end_and_what_cannot_be_is_told(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = started(lab, tmp_path / "run")
    with monkeypatch.context() as patch:
        refusing(patch)
        with pytest.raises(RecordingError):
            session.feed(noise(2, 0))
    assert session.snapshot is not None
    session.close()
    check(tmp_path / "run", [session.snapshot])

    session = started(lab, tmp_path / "full")
    with monkeypatch.context() as patch:
        refusing(patch)
        for work in (lambda: session.feed(noise(2, 0)), session.close):
            with pytest.raises(RecordingError, match="disk is full"):
                work()
        session.close()  # it was told
        session.feed(noise(2, 1))  # the stream goes on without recording
    read = Recording.open(tmp_path / "full")
    assert (len(read.steps), read.status) == (0, "interrupted")


def test_a_reason_is_noted_although_the_disk_refuses_the_steps(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = syncing.write_whole

    def full_for_parts(path: Path, data: bytes, **options: Any) -> None:
        if path.parent.name == "parts":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(path, data, **options)

    session = started(lab, tmp_path / "run")
    monkeypatch.setattr(syncing, "write_whole", full_for_parts)
    with pytest.raises(RecordingError):
        session.feed(noise(2, 0))
    session.close("the disk was full")
    assert "disk is full" in caplog.text
    manifest = Recording.open(tmp_path / "run").manifest
    assert (manifest.status, manifest.reason) == ("aborted", "the disk was full")


def test_a_stream_whose_disk_stays_full_does_not_fill_the_memory(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = started(lab, tmp_path / "run")
    chunk = noise(1, 0)
    with monkeypatch.context() as patch:
        refusing(patch)
        for _ in range(MOST_DUE + 3):
            with suppress(RecordingError):
                session.feed(chunk)
    session.close()
    read = Recording.open(tmp_path / "run")
    assert [step.step for step in read.steps] == list(range(3, MOST_DUE + 3))
    assert "Steps 0 to 2 of the recording" in read.notes[0]
    assert read.verify() == []


# --- a disk that forgets -------------------------------------------------------------------------
@contextmanager
def forgetful(times: int) -> Iterator[list[int]]:
    """A disk that refuses to keep files, so many times; yields what it was asked."""
    fsync, asked = os.fsync, list[int]()

    def refuse(file: int) -> None:
        asked.append(file)
        if len(asked) <= times:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        yield asked


def test_a_step_that_the_disk_forgot_is_written_again_and_costs_no_other(
    lab: Lab, tmp_path: Path
) -> None:
    session = started(lab, tmp_path / "run")
    steps = [session.feed(noise(2, 0))]
    with forgetful(1) as asked:
        steps += [session.feed(noise(2, seed)) for seed in (1, 2, 3)]
        session.close()
    assert len(asked) >= 4
    assert check(tmp_path / "run", steps).status == "finished"


@pytest.mark.parametrize("times", [2, 3, 5])
def test_a_disk_that_goes_on_refusing_is_told_and_no_step_is_left_out(
    lab: Lab, tmp_path: Path, times: int
) -> None:
    session = started(lab, tmp_path / "run")
    steps = [session.feed(noise(2, 0)), session.feed(noise(2, 1))]
    told: list[str] = []
    with forgetful(times):
        for seed in range(2, 8):
            try:
                session.feed(noise(2, seed))
            except RecordingError as error:
                told.append(str(error))
            assert session.snapshot is not None
            steps.append(session.snapshot)
        session.close()
    assert told and all("Input/output error" in sentence for sentence in told)
    assert "the last of them not safely on disk yet" in told[0]
    assert check(tmp_path / "run", steps).status == "finished"


def test_a_disk_that_refuses_to_the_end_leaves_no_finished_recording(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "run", manifest())
    (snapshot, table), *_ = Stream().play(1)
    with forgetful(10**6):
        writer.write_step(snapshot, table)
        with pytest.raises(RecordingError, match=r"Input/output error"):
            writer.finish()
    read = Recording.open(tmp_path / "run")
    assert read.status == "interrupted"
    assert differences(read.steps[0].held, snapshot.held) == []


# --- Ctrl-C --------------------------------------------------------------------------------------
@contextmanager
def interrupted_at_random(seed: int, longest_s: float) -> Iterator[None]:
    """Ctrl-C once, after a random time."""
    rng = np.random.default_rng(seed)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, longest_s))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_leaves_no_step_out_of_a_written_recording(tmp_path: Path) -> None:
    """Without a model, so that most interruptions fall into the writing itself."""
    played = [(snapshot, table.copy()) for snapshot, table in Stream(heads=2).play(60)]
    writer = RecordingWriter(tmp_path / "run", manifest(), level="rows")
    interruptions = 0
    at = 0
    while at < len(played):
        try:
            with interrupted_at_random(at + 1000 * interruptions, 0.004):
                while at < len(played):
                    snapshot, table = played[at]
                    if writer.last_step is None or snapshot.step > writer.last_step:
                        writer.write_step(snapshot, table)
                    at += 1
        except KeyboardInterrupt:
            interruptions += 1
        if interruptions > 400:
            break
    for snapshot, table in played[at:]:
        if writer.last_step is None or snapshot.step > writer.last_step:
            writer.write_step(snapshot, table)
    writer.finish()
    assert interruptions > 3
    read = Recording.open(tmp_path / "run")
    assert read.verify() == [] and read.notes == ()
    assert [differences(s, w) for s, (w, _) in zip(read.steps, played, strict=True)] == [[]] * 60
    assert writer.written.steps == 60


def test_ctrl_c_at_any_moment_leaves_a_session_and_its_recording_whole(
    lab: Lab, tmp_path: Path
) -> None:
    session = started(lab, tmp_path / "run")
    session.feed(noise(2, 0))
    interruptions = fed = 0
    while interruptions < 12 and fed < 600:
        try:
            with interrupted_at_random(interruptions, 0.15):
                while fed < 600:
                    session.feed(noise(2, fed))
                    fed += 1
        except KeyboardInterrupt:
            interruptions += 1
    session.feed(noise(2, 99))  # neither waits for ever nor is taken for a call from inside
    answer = session.ask(QUESTION, max_new_tokens=1)
    session.close()
    assert interruptions == 12
    read = Recording.open(tmp_path / "run")
    assert read.verify() == [] and read.notes == ()
    assert [step.step for step in read.steps] == list(range(session.stream.step))
    assert read.steps[-1].frames_seen == session.stream.frames_seen
    assert (read.status, len(read.answers)) == ("finished", 1)
    for layer, ids in enumerate(read.steps[-1].held):
        assert (ids == session.layer_ids(layer).numpy()[:, session.protected_tokens :]).all()
    assert answer.step == session.stream.step


def test_ctrl_c_is_the_reason_of_an_aborted_recording(lab: Lab, tmp_path: Path) -> None:
    def run() -> None:
        with started(lab, tmp_path / "run") as session:
            session.feed(noise(2, 0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    manifest = Recording.open(tmp_path / "run").manifest
    assert (manifest.status, manifest.reason) == ("aborted", "interrupted by Ctrl-C")


def test_a_recording_that_is_taken_away_is_told_once_a_step_and_the_stream_goes_on(
    lab: Lab, tmp_path: Path
) -> None:
    session = started(lab, tmp_path / "run")
    session.feed(noise(2, 0))
    (tmp_path / "run").rename(tmp_path / "moved")
    for seed in (1, 2):
        with pytest.raises(RecordingError, match="was removed or replaced"):
            session.feed(noise(2, seed))
    session.close("the recording was taken away")
    session.feed(noise(2, 3))
    assert session.stream.step == 4
    assert not (tmp_path / "run").exists()
    assert len(Recording.open(tmp_path / "moved").steps) == 1
