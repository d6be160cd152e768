"""A recording has one writer: noted and locked while it runs, told when its folder goes, recognised when it is gone."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hermes_lab.errors import RecordingError
from hermes_lab.processes import is_running, sweep
from hermes_lab.recording import Recording, RecordingWriter, list_recordings, owner
from hermes_lab.recording.owner import in_use, this_process
from tests.recording_streams import Stream, manifest

ROOT = Path(__file__).parents[2]


@contextmanager
def another_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that records into a folder until it is killed; it has written a step when this returns."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.recording_child", str(folder), "1"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        assert child.stdout.readline() == b"0\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def first_step(writer: RecordingWriter) -> None:
    (snapshot, table), *_ = Stream().play(1)
    writer.write_step(snapshot, table)


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks."""

    def refuse(descriptor: int, *, shared: bool) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(owner, "_lock", refuse)


@pytest.mark.parametrize("locks", [True, False])
def test_a_running_recording_is_not_overwritten_and_a_killed_one_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    folder = tmp_path / "run"
    with another_process(folder) as child:
        if not locks:
            no_locks(monkeypatch)
        monkeypatch.setattr(owner, "_WAIT_S", 0.1)
        for _ in range(3):  # looking does not get in the writer's way, nor refusing
            recording = Recording.open(folder)
            assert recording.status == "open" == recording.summary().status
            with pytest.raises(
                RecordingError, match=rf"is being written by process {child.pid} on "
            ):
                RecordingWriter(folder, manifest(), overwrite=True)
            with pytest.raises(RecordingError, match="exists and is not empty"):
                RecordingWriter(folder, manifest())
        assert child.stdout is not None
        told = int(child.stdout.readline())
        child.kill()
        child.wait()
    recording = Recording.open(folder)
    assert (recording.status, recording.manifest.status) == ("interrupted", "open")
    assert recording.problems == () and recording.verify() == []
    assert len(recording.steps) > told
    assert "(interrupted: its process ended without closing it" in recording.summary().to_text()
    assert [entry.status for entry in list_recordings(tmp_path)] == ["interrupted"]
    with RecordingWriter(folder, manifest(seed=9), overwrite=True) as writer:
        first_step(writer)
    read = Recording.open(folder)
    assert (read.status, read.manifest.seed, len(read.steps)) == ("finished", 9, 1)
    assert read.manifest.owner is None


def test_a_second_recording_of_the_same_process_takes_over_and_the_first_is_told(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    first = RecordingWriter(folder, manifest())
    first_step(first)
    second = RecordingWriter(folder, manifest(seed=2), overwrite=True)
    for _ in range(2):
        with pytest.raises(
            RecordingError, match=r"was removed or replaced .*\(1 steps and 0 answers"
        ):
            first.write_answer(Stream().answer(0))
    first_step(second)
    with pytest.raises(RecordingError, match="was removed or replaced"):
        first.finish()
    first.finish()
    second.finish()
    read = Recording.open(folder)
    assert (read.status, read.manifest.seed, len(read.steps), len(read.answers)) == (
        "finished",
        2,
        1,
        0,
    )
    assert read.verify() == []


@pytest.mark.parametrize("harm", ["folder", "manifest", "moved", "file in its place"])
def test_a_writer_whose_folder_went_away_says_so_and_writes_nothing(
    tmp_path: Path, harm: str
) -> None:
    folder = tmp_path / "run"
    writer = RecordingWriter(folder, manifest())
    first_step(writer)
    if harm == "manifest":
        (folder / "manifest.json").unlink()
    elif harm == "moved":
        folder.rename(tmp_path / "elsewhere")
    else:
        shutil.rmtree(folder)
        if harm.startswith("file"):
            folder.write_text("mine")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    *_, (snapshot, table) = Stream().play(2)
    with pytest.raises(RecordingError, match=r"was removed or replaced .*with --record"):
        writer.write_step(snapshot, table)
    with pytest.raises(RecordingError, match="was removed or replaced"):
        writer.abort("because")
    with pytest.raises(RecordingError, match="is closed"):
        writer.write_step(snapshot, table)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_writer_that_was_forgotten_writes_no_more(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "run", manifest())
    first_step(writer)
    assert Recording.open(tmp_path / "run").status == "open"
    del writer
    gc.collect()
    assert Recording.open(tmp_path / "run").status == "interrupted"


def test_a_writer_does_not_stay_open_after_it_was_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RecordingError):
        RecordingWriter(tmp_path / "run", manifest(), overwrite=True)
    assert in_use(tmp_path / "run", this_process()) is False


_CHILD_OF_A_WRITER = """
import os, sys, time
from hermes_lab.errors import RecordingError
from hermes_lab.recording import Recording, RecordingWriter
from hermes_lab.recording.owner import in_use, this_process
from tests.recording_streams import Stream, manifest
played = [(s, t.copy()) for s, t in Stream().play(3)]
writer = RecordingWriter(sys.argv[1], manifest())
writer.write_step(*played[0])
pid = os.fork()
if not pid:
    try:
        writer.write_step(*played[1])
    except RecordingError as error:
        print(error, flush=True)
    writer.finish()
    time.sleep(60)
    os._exit(0)
writer.write_step(*played[1])
print("in use", in_use(writer.folder, this_process()), flush=True)
writer.finish()
print("in use", in_use(writer.folder, this_process()), "child", os.waitpid(pid, os.WNOHANG)[0], flush=True)
os.kill(pid, 9)
read = Recording.open(sys.argv[1])
print(read.status, len(read.steps), read.verify(), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system knows no fork")
def test_a_forked_child_neither_writes_nor_keeps_the_lock(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD_OF_A_WRITER, str(tmp_path / "run")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    said = sorted(done.stdout.splitlines())
    assert [line for line in said if "belongs to process" in line and "not to its child" in line]
    assert "in use True" in said and "in use False child 0" in said
    assert "finished 2 []" in said


def test_threads_that_write_into_one_recording_take_a_number_each(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "run", manifest())
    stream = Stream()
    gate = threading.Barrier(4)
    problems: list[BaseException] = []

    def answer(number: int) -> None:
        gate.wait()
        try:
            for _ in range(12):
                writer.write_answer(stream.answer(number))
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=answer, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    gate.wait()
    for snapshot, table in stream.play(12):
        writer.write_step(snapshot, table)
    for thread in threads:
        thread.join()
    writer.finish()
    assert not problems
    read = Recording.open(tmp_path / "run")
    assert (len(read.steps), len(read.answers)) == (12, 36)
    assert read.verify() == []
    assert (writer.written.steps, writer.written.answers) == (12, 36)


# --- what was there before -----------------------------------------------------------------------
def test_what_a_killed_start_left_behind_needs_no_overwrite(tmp_path: Path) -> None:
    for name in (".manifest.json.tmp", "parts/.000000-step.safetensors.tmp"):
        path = tmp_path / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with RecordingWriter(tmp_path / "run", manifest()) as writer:
        first_step(writer)
    assert sorted(p.name for p in (tmp_path / "run").rglob("*")) == [
        "000000-step.safetensors", "manifest.json", "parts",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["parts/mine.txt", "parts/deep/000000-step.safetensors", ".notes", "parts"]
)
def test_what_is_not_part_of_a_recording_is_never_removed(tmp_path: Path, name: str) -> None:
    with RecordingWriter(tmp_path / "run", manifest()) as writer:
        first_step(writer)
    path = tmp_path / "run" / name
    if name == "parts":
        shutil.rmtree(path)
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "000000-step.safetensors").write_text("mine")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    with pytest.raises(RecordingError, match=r"which is not part of a recording"):
        RecordingWriter(tmp_path / "run", manifest(), overwrite=True)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_a_folder_of_parts_alone_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    (tmp_path / "run" / "parts").mkdir(parents=True)
    (tmp_path / "run" / "parts" / "000000-step.safetensors").write_bytes(
        b"what is left of something"
    )
    with pytest.raises(RecordingError, match="exists and is not empty"):
        RecordingWriter(tmp_path / "run", manifest())


def test_an_open_recording_without_an_owner_may_still_be_running(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "run", manifest()) as writer:
        first_step(writer)
    path = tmp_path / "run" / "manifest.json"
    written = json.loads(path.read_text()) | {"status": "open", "finished": None}
    path.write_text(json.dumps(written))
    assert Recording.open(tmp_path / "run").status == "open"  # an earlier version noted no owner
    other = {"pid": os.getpid(), "host": "another-machine", "token": "t"}
    path.write_text(json.dumps(written | {"owner": other}))
    assert Recording.open(tmp_path / "run").status == "open"  # its locks are not seen from here
    with pytest.raises(
        RecordingError, match=r"is being written by process .* on 'another-machine'"
    ):
        RecordingWriter(tmp_path / "run", manifest(), overwrite=True)


def test_a_process_is_running_or_it_is_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert is_running(os.getpid()) is True
    assert is_running(1) is True
    assert is_running(child.pid) is False
    assert is_running(-5) is None and is_running(0) is None and is_running(10**30) is None


def test_only_files_of_dead_processes_are_swept(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead, alive = child.pid, os.getpid()
    gone = [f".a.json.{dead}", f".a.json.{dead}.part", f".a.json.{dead}.tmp"]
    stay = [
        f".a.json.{alive}.part", f".b.json.{dead}", f"a.json.{dead}", f".a.json.{dead}.bak", "a.json",
        ".a.json.x1", f".a.json.{10**30}",
    ]  # fmt: skip
    for name in (*gone, *stay):
        (tmp_path / name).write_text("")
    sweep(tmp_path / "a.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(stay)
    sweep(tmp_path / "nowhere" / "a.json")
