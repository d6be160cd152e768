"""Full disks, folders in the way, cut and damaged files: what was saved stays, and one sentence says so."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hermes_lab.errors import RecordingError
from hermes_lab.recording import Manifest, Recording, RecordingWriter, diff
from tests.recording_streams import Stream, differences, manifest


def record(folder: Path, steps: int = 6, answers: bool = True) -> None:
    """A finished recording with an answer after the last step."""
    with RecordingWriter(folder, manifest()) as writer:
        for snapshot, table in Stream().play(steps):
            writer.write_step(snapshot, table)
        if answers:
            writer.write_answer(Stream().answer(steps - 1))


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def full_disk(monkeypatch: pytest.MonkeyPatch, where: str, code: int = errno.ENOSPC) -> None:
    """Let the disk be full when a file is opened, written (half of it goes) or renamed."""

    def refuse(*_: Any) -> Any:
        raise OSError(code, os.strerror(code))

    def half_written(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        return refuse()

    if where == "open":
        monkeypatch.setattr(Path, "write_bytes", refuse)
    elif where == "write":
        monkeypatch.setattr(Path, "write_bytes", half_written)
    else:
        monkeypatch.setattr(os, where, refuse)


@pytest.mark.parametrize("where", ["open", "write", "replace"])
def test_a_full_disk_loses_nothing_and_the_recording_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folder = tmp_path / "run"
    stream = Stream(chunk_frames=1)
    picture = [np.zeros((8, 8, 3), np.uint8)]
    played = []
    writer = RecordingWriter(folder, manifest(), level="rows")
    for snapshot, table in stream.play(9):
        played.append(snapshot)
        if snapshot.step in (4, 5):
            before = files(folder)
            with monkeypatch.context() as patch:
                full_disk(patch, where)
                with pytest.raises(RecordingError) as caught:
                    writer.write_step(snapshot, table, picture)
                with pytest.raises(RecordingError, match="disk is full"):
                    writer.write_answer(stream.answer(4))
            assert "disk is full" in str(caught.value)
            assert str(folder) in str(caught.value)
            assert "4 steps and 0 answers are saved" in str(caught.value)
            assert files(folder) == before
            assert len(Recording.open(folder).steps) == 4
        else:
            writer.write_step(snapshot, table, picture)
    writer.finish()
    recording = Recording.open(folder)
    expected = [snapshot for snapshot in played if snapshot.step not in (4, 5)]
    assert [differences(s, e) for s, e in zip(recording.steps, expected, strict=True)] == [[]] * 7
    assert differences(recording.tokens.arrays(), table.arrays()) == []
    assert recording.verify() == []


def test_a_disk_that_fills_between_pictures_and_numbers_leaves_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snapshot, table), *_ = Stream().play(1)
    writer = RecordingWriter(tmp_path / "run", manifest())
    before = files(tmp_path / "run")
    rename = os.replace

    def refuse_steps(source: Path, target: Path) -> None:
        if "step" in Path(target).name:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "replace", refuse_steps)
    with pytest.raises(RecordingError, match="disk is full"):
        writer.write_step(snapshot, table, [np.zeros((8, 8, 3), np.uint8)] * 2)
    assert files(tmp_path / "run") == before


def test_a_disk_that_refuses_late_is_told_once_and_the_recording_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (first, table), (second, longer), *_ = Stream().play(2)
    writer = RecordingWriter(tmp_path / "run", manifest())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        writer.write_step(first, table)
        with pytest.raises(RecordingError, match=r"Cannot record .*Input/output error"):
            writer.write_step(second, longer)
    writer.write_step(second, longer)
    writer.finish()
    assert [snapshot.step for snapshot in Recording.open(tmp_path / "run").steps] == [0, 1]


def test_finishing_waits_for_the_disk_and_lets_its_thread_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (fsync(file), synced.append(file)))
    (first, table), *_ = Stream().play(1)
    with RecordingWriter(tmp_path / "run", manifest()) as writer:
        writer.write_step(first, table)
    assert len(synced) == 3  # the manifest, the step, the manifest
    assert all("recording-sync" not in thread.name for thread in threading.enumerate())


def test_other_write_errors_are_told_by_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (snapshot, table), *_ = Stream().play(1)
    writer = RecordingWriter(tmp_path / "run", manifest())
    full_disk(monkeypatch, "replace", errno.EIO)
    with pytest.raises(RecordingError, match=r"Cannot record .*Input/output error.*0 steps"):
        writer.write_step(snapshot, table)
    with pytest.raises(RecordingError, match="Cannot record"):
        writer.finish()
    assert Recording.open(tmp_path / "run").manifest.status == "open"


def record_until_the_camera_goes(folder: Path, before: Callable[[], None]) -> None:
    """One recorded step, then an error that is not the recorder's."""
    with RecordingWriter(folder, manifest()) as writer:
        (snapshot, table), *_ = Stream().play(1)
        writer.write_step(snapshot, table)
        before()
        raise KeyError("camera")


def test_an_error_in_the_stream_aborts_the_recording_and_is_told(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="camera"):
        record_until_the_camera_goes(tmp_path / "run", lambda: None)
    read = Recording.open(tmp_path / "run")
    assert (read.manifest.status, read.manifest.reason) == ("aborted", "KeyError: 'camera'")
    assert len(read.steps) == 1
    assert "aborted: KeyError: 'camera'" in read.summary().to_text()


def test_the_first_error_is_told_when_aborting_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyError, match="camera"):
        record_until_the_camera_goes(tmp_path / "run", lambda: full_disk(monkeypatch, "write"))
    assert Recording.open(tmp_path / "run").manifest.status == "open"


def test_a_closed_recording_takes_no_more(tmp_path: Path) -> None:
    (snapshot, table), *_ = Stream().play(1)
    with RecordingWriter(tmp_path / "run", manifest()) as writer:
        pass
    with pytest.raises(RecordingError, match="is closed"):
        writer.write_step(snapshot, table)
    with pytest.raises(RecordingError, match="is closed"):
        writer.write_answer(Stream().answer(0))


def test_what_is_learnt_of_the_model_later_reaches_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RecordingWriter(tmp_path / "run", manifest())
    model = replace(manifest().model, grid=(3, 5), tokens_per_frame=15)
    writer.amend(model)
    assert Recording.open(tmp_path / "run").manifest == writer.manifest
    assert Recording.open(tmp_path / "run").manifest.model == model
    full_disk(monkeypatch, "write")
    with pytest.raises(RecordingError, match="disk is full"):
        writer.amend(manifest().model)
    assert Recording.open(tmp_path / "run").manifest.model == model
    with RecordingWriter(tmp_path / "none", manifest(), level="off") as off:
        off.amend(model)
    assert not (tmp_path / "none").exists()


def test_level_off_writes_nothing(tmp_path: Path) -> None:
    (snapshot, table), *_ = Stream().play(1)
    with RecordingWriter(tmp_path / "run", manifest(), level="off") as writer:
        writer.write_step(snapshot, table)
        writer.write_answer(Stream().answer(0))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RecordingError, match=r"level 'sumary'; did you mean 'summary'\?"):
        RecordingWriter(tmp_path / "run", manifest(), level="sumary")  # type: ignore[arg-type]


def test_a_folder_in_use_is_refused_and_replaced_only_on_demand(tmp_path: Path) -> None:
    record(tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(RecordingError, match=r"exists and is not empty; .*--overwrite"):
        RecordingWriter(tmp_path / "run", manifest())
    assert files(tmp_path / "run") == before
    with RecordingWriter(tmp_path / "run", manifest(seed=7), overwrite=True):
        pass
    recording = Recording.open(tmp_path / "run")
    assert (len(recording.steps), recording.manifest.seed) == (0, 7)
    (tmp_path / "empty").mkdir()
    with RecordingWriter(tmp_path / "empty", manifest()):
        pass


def test_overwriting_never_removes_what_is_not_a_recording(tmp_path: Path) -> None:
    record(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    before = files(tmp_path / "run")
    with pytest.raises(RecordingError, match=r"holds 'notes.txt', which is not part"):
        RecordingWriter(tmp_path / "run", manifest(), overwrite=True)
    assert files(tmp_path / "run") == before
    (tmp_path / "clip").write_text("")
    with pytest.raises(RecordingError, match="is a file"):
        RecordingWriter(tmp_path / "clip", manifest(), overwrite=True)
    with pytest.raises(RecordingError, match="cannot be written"):
        RecordingWriter(tmp_path / "clip" / "run", manifest())


@pytest.mark.parametrize("leftover", [".manifest.json.tmp", "parts/.000000-step.safetensors.tmp"])
def test_what_a_killed_start_left_behind_can_be_overwritten(tmp_path: Path, leftover: str) -> None:
    path = tmp_path / "run" / leftover
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half")
    with pytest.raises(RecordingError, match=r"not a recording: it has no manifest.json"):
        Recording.open(tmp_path / "run")
    with RecordingWriter(tmp_path / "run", manifest(), overwrite=True):
        pass
    assert Recording.open(tmp_path / "run").steps[:] == []


def test_temporary_files_and_strangers_are_ignored(tmp_path: Path) -> None:
    record(tmp_path / "run")
    for name in (".000007-step.safetensors.tmp", "000008-step.safetensors.bak", ".DS_Store"):
        (tmp_path / "run" / "parts" / name).write_bytes(b"half")
    recording = Recording.open(tmp_path / "run")
    assert (len(recording.steps), len(recording.answers), recording.problems) == (6, 1, ())
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "manifest.json").write_text(manifest().to_json())
    assert len(Recording.open(tmp_path / "bare").steps) == 0


@pytest.mark.parametrize("answers", [False, True])
def test_a_last_part_cut_anywhere_is_left_out(tmp_path: Path, answers: bool) -> None:
    record(tmp_path / "run", 3, answers)
    last = sorted((tmp_path / "run" / "parts").iterdir())[-1]
    whole = last.read_bytes()
    for length in range(len(whole) - 1, -1, -11):
        last.write_bytes(whole[:length])
        recording = Recording.open(tmp_path / "run")
        assert (len(recording.steps), len(recording.answer_parts)) == (3 if answers else 2, 0)
        assert last.name in recording.problems[0]
        assert f"the {len(recording.steps)} steps before it can be read" in recording.problems[0]
        assert recording.verify()[0] == recording.problems[0]
    assert [s.step for s in recording.steps] == list(range(len(recording.steps)))
    assert recording.problems[0] in recording.summary().notes


@pytest.mark.parametrize("harm", ["cut", "emptied", "removed", "garbage"])
def test_damage_in_the_middle_is_named_and_salvaged_around(tmp_path: Path, harm: str) -> None:
    record(tmp_path / "run")
    victim = tmp_path / "run" / "parts" / "000003-step.safetensors"
    whole, named = victim.read_bytes(), victim.name
    if harm == "removed":
        victim.unlink()
        named = "000003"
    else:
        victim.write_bytes({"cut": whole[:-1], "emptied": b"", "garbage": b"x" * 99}[harm])
    with pytest.raises(RecordingError) as caught:
        Recording.open(tmp_path / "run")
    assert f"Part {named} of the recording" in str(caught.value)
    assert "3 steps and 1 answers can be read with Recording.open(..., salvage=True)" in str(
        caught.value
    )
    salvaged = Recording.open(tmp_path / "run", salvage=True)
    for read, (written, _) in zip(salvaged.steps, Stream().play(3), strict=True):
        assert read.held[0].tolist() == written.held[0].tolist()
    assert len(salvaged.tokens) == 5 + 6 * 8
    assert named in salvaged.problems[0]
    assert "The steps from 3 on cannot be read" in salvaged.problems[1]
    assert "2 parts behind the gap" in salvaged.problems[1]
    assert salvaged.answers[0].text == "A red ball."


def _break_ids(part: Path) -> None:
    """Overwrite the ids that leave in a part with absurd ones."""
    data = part.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    start, end = (8 + size + offset for offset in header["evicted.steps"]["data_offsets"])
    part.write_bytes(data[:start] + b"\x63" * (end - start) + data[end:])


def test_a_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    record(tmp_path / "run")
    assert Recording.open(tmp_path / "run").verify() == []
    part = tmp_path / "run" / "parts" / "000002-step.safetensors"
    data = bytearray(part.read_bytes())
    data[-3] ^= 4
    part.write_bytes(data)
    found = Recording.open(tmp_path / "run").verify()
    assert "Part 000002-step.safetensors does not match its checksum." in found
    for read in (
        lambda r: r.steps[2],
        lambda r: r.retention(),
        lambda r: diff(r, r),
    ):  # a flip that makes ids absurd; others only the checksum can tell
        _break_ids(part)
        with pytest.raises(RecordingError, match=r"Part 000002-step.* the 2 steps before it"):
            read(Recording.open(tmp_path / "run"))


def test_a_part_that_goes_away_after_opening_is_named(tmp_path: Path) -> None:
    record(tmp_path / "run")
    recording = Recording.open(tmp_path / "run")
    (tmp_path / "run" / "parts" / "000004-step.safetensors").unlink()
    assert recording.steps[3].step == 3
    with pytest.raises(
        RecordingError, match=r"000004-step.* the 4 steps before it remain readable"
    ):
        recording.steps[4]


def test_manifests_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    record(tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    good = json.loads(path.read_text())
    cases = {
        "has recording format 3, this version reads up to 2; upgrade": good | {"format_version": 3},
        "has recording format None": good | {"format_version": None},
        "was not written by HERMES Lab": good | {"format": "other"},
        "is incomplete": {k: v for k, v in good.items() if k != "model"},
        r"missing .*required .*argument: 'seed'": {k: v for k, v in good.items() if k != "seed"},
    }
    for sentence, content in cases.items():
        path.write_text(json.dumps(content))
        with pytest.raises(RecordingError, match=sentence):
            Recording.open(tmp_path / "run")
    path.write_text("{")
    with pytest.raises(RecordingError, match="not valid JSON"):
        Recording.open(tmp_path / "run")
    path.write_text(json.dumps(good | {"later": 1}))
    assert len(Recording.open(tmp_path / "run").steps) == 6
    with pytest.raises(RecordingError, match="no recording folder"):
        Recording.open(tmp_path / "absent")


def test_manifests_come_back_equal(tmp_path: Path) -> None:
    written = manifest(fps=None, level="rows", reason="because", status="aborted")
    assert Manifest.from_json(written.to_json(), tmp_path) == written
    with pytest.raises(RecordingError, match="policy fields must be"):
        manifest(policy={"policy": object()}).to_json()


def test_snapshots_that_contradict_themselves_are_refused_and_the_recording_goes_on(
    tmp_path: Path,
) -> None:
    stream = Stream()
    (first, _), (second, table), *_ = [(s, t.copy()) for s, t in stream.play(3)]
    writer = RecordingWriter(tmp_path / "run", manifest(), level="rows")
    writer.write_step(first, table)
    twice = (np.array([[7, 7]]), *second.held[1:])
    bad = {
        "came after step 0": replace(second, step=0),
        "has 2 layers, the recording 3": replace(second, held=second.held[:2]),
        "token 99 has no row in the token table": replace(second, new_ids=np.array([99])),
        "a token id stands twice": replace(second, held=twice, positions=()),
        "do not match its ids": replace(second, positions=second.positions[::-1][:1] * 3, held=first.held),
        "positions of 2 layers, ids of 3": replace(second, positions=second.positions[:2]),
        "does not match its candidates": replace(
            second,
            decisions=(replace(second.decisions[0], kept=np.ones((1, 1), np.bool_)),),
        ),
    }  # fmt: skip
    before = files(tmp_path / "run")
    for sentence, snapshot in bad.items():
        with pytest.raises(RecordingError, match=sentence):
            writer.write_step(snapshot, table)
    with pytest.raises(RecordingError, match=r"1 thumbnails for 2 frames"):
        writer.write_step(second, table, [np.zeros((2, 2, 3), np.uint8)])
    with pytest.raises(RecordingError, match=r"uint8 \[height, width, 3\], got float64 \(2, 2\)"):
        writer.write_step(second, table, [np.zeros((2, 2))] * 2)
    with pytest.raises(RecordingError, match=r"extra\['x'\] of the answer is not JSON"):
        writer.write_answer(replace(stream.answer(0), extra={"x": object()}))
    assert files(tmp_path / "run") == before
    writer.write_step(second, table)
    writer.finish()
    writer.finish()
    assert differences(Recording.open(tmp_path / "run").steps[1], second) == []


def test_recordings_are_read_without_torch() -> None:
    code = (
        "import sys, hermes_lab.recording; print({'torch', 'transformers', 'PIL'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
