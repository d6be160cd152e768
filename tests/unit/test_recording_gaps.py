"""Parts that are damaged or gone cost the steps that need them and no other: what stands behind a gap is read."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from hermes_lab.errors import RecordingError
from hermes_lab.recording import Recording, RecordingWriter, diff
from hermes_lab.snapshot import Snapshot
from hermes_lab.tokens import Role, TokenTable
from tests.recording_streams import Stream, differences, manifest

STEPS = 24
STREAMS = {
    "a shared set": Stream(),
    "a set for each head, several axes": Stream(heads=2, axes=3, summarise="sorted"),
    "renumbered": Stream(renumber=True, summarise="end"),
    "some protected": Stream(protect=3, seed=5),
}


def recorded(folder: Path, stream: Stream) -> tuple[list[Snapshot], TokenTable]:
    """A recording with an answer after every fourth step; its steps and its token table."""
    steps: list[Snapshot] = []
    table = TokenTable()
    with RecordingWriter(folder, manifest(), level="rows") as writer:
        for snapshot, table in stream.play(STEPS):
            writer.write_step(snapshot, table)
            steps.append(snapshot)
            if snapshot.step % 4 == 3:
                writer.write_answer(stream.answer(snapshot.step))
    return steps, table


def parts(folder: Path, kind: str = "step") -> list[Path]:
    return sorted((folder / "parts").glob(f"*-{kind}.safetensors"))


def checkpoints(folder: Path) -> list[int]:
    """Steps whose part carries the whole state before it."""
    read = Recording.open(folder).step_parts
    return [int(part.record["step"]) for part in read if "before" in part.record]


def expected_without(lost: set[int], known: list[int]) -> list[int]:
    """Numbers of the steps that can be read when some are gone and those of `known` carry a checkpoint."""
    found: list[int] = []
    whole = True
    for step in range(STEPS):
        whole = step not in lost and (whole or step in known)
        found += [step] * whole
    return found


def check(recording: Recording, steps: list[Snapshot], expected: list[int]) -> None:
    """Everything that a recording tells agrees with the steps that are left."""
    assert [snapshot.step for snapshot in recording.steps] == expected
    order = list(range(len(expected)))
    random.Random(0).shuffle(order)
    for index in order:
        assert differences(recording.steps[index], steps[expected[index]]) == []
    retention = recording.retention()
    for layer in range(recording.layers):
        for step in expected:
            held = set(np.unique(steps[step].held[layer]).tolist())
            state = retention.state(step)[layer]
            shown = set(retention.ids[np.isin(state, (1, 4))].tolist())
            assert shown == held & set(retention.ids.tolist())
        entered, left = retention.entered_step[layer], retention.left_step[layer]
        assert (np.isin(entered, (-1, *expected)) & np.isin(left, (-1, *expected))).all()
    assert recording.timeline.step.tolist() == expected
    assert recording.summary().steps == len(expected)
    if expected:
        assert recording.life(int(retention.ids[0])).layers
        assert diff(recording, recording).mean == 1.0


@pytest.fixture(params=STREAMS)
def whole(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Path, list[Snapshot], TokenTable]:
    steps, table = recorded(tmp_path / "whole", STREAMS[request.param])
    assert len(checkpoints(tmp_path / "whole")) > 2
    return tmp_path / "whole", steps, table


@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_behind_a_gap_the_steps_from_the_next_checkpoint_on_are_read(
    whole: tuple[Path, list[Snapshot], TokenTable], tmp_path: Path, harm: str
) -> None:
    folder, steps, table = whole
    known = checkpoints(folder)
    for lost in sorted({0, 1, known[1], known[1] - 1, known[-1], STEPS - 2} - {STEPS - 1}):
        copy = tmp_path / f"without {lost}"
        shutil.copytree(folder, copy)
        victim = parts(copy)[lost]
        if harm == "removed":
            victim.unlink()
        else:
            victim.write_bytes(victim.read_bytes()[:-5])
        with pytest.raises(RecordingError, match=r"salvage=True"):
            Recording.open(copy)
        read = Recording.open(copy, salvage=True)
        expected = expected_without({lost}, known)
        check(read, steps, expected)
        assert len(read.answers) == STEPS // 4
        assert any(f"{lost}" in problem for problem in read.problems)
        assert read.verify()[: len(read.problems)] == list(read.problems)
        _check_table(read, table, steps, {lost})


def _check_table(
    recording: Recording, table: TokenTable, steps: list[Snapshot], lost: set[int]
) -> None:
    """Tokens that came in a lost step are text without a place, all others are what they were."""
    read = recording.tokens
    gone = np.isin(table.column("step"), list(lost))[: len(read)]
    for name in ("role", "frame", "row", "col", "step"):
        assert (read.column(name)[~gone] == table.column(name)[: len(read)][~gone]).all()
    named = gone & (read.column("step") == -1)
    assert (read.column("role")[named] == Role.TEXT).all()
    assert (read.column("frame")[named] == -1).all() and np.isnan(
        read.column("time_s")[named]
    ).all()


def test_any_parts_may_be_gone(
    whole: tuple[Path, list[Snapshot], TokenTable], tmp_path: Path
) -> None:
    folder, steps, _ = whole
    known = checkpoints(folder)
    rng = random.Random(3)
    for number in range(12):
        copy = tmp_path / f"copy {number}"
        shutil.copytree(folder, copy)
        lost = set(rng.sample(range(STEPS), rng.randint(1, 9)))
        for step in lost:
            (copy / "parts" / parts(folder)[step].name).unlink()
        for answer in parts(copy, "answer"):
            if rng.random() < 0.3:
                answer.unlink()
        check(Recording.open(copy, salvage=True), steps, expected_without(lost, known))


def test_a_missing_answer_costs_no_step(tmp_path: Path) -> None:
    steps, _ = recorded(tmp_path / "run", Stream())
    parts(tmp_path / "run", "answer")[1].unlink()
    parts(tmp_path / "run", "answer")[3].write_bytes(b"garbage")
    read = Recording.open(tmp_path / "run", salvage=True)
    check(read, steps, list(range(STEPS)))
    assert len(read.answers) == STEPS // 4 - 2
    assert read.restarts == frozenset()
    assert len(read.problems) == 2
    assert "Part 000009 of the recording" in read.problems[0]


def test_two_parts_that_took_one_number_are_both_read(tmp_path: Path) -> None:
    """So wrote an earlier version, when an answer came while another thread fed."""
    steps, _ = recorded(tmp_path / "run", Stream())
    answer = parts(tmp_path / "run", "answer")[2]
    number = int(answer.name[:6])
    answer.rename(answer.with_name(f"{number - 1:06d}-answer.safetensors"))
    read = Recording.open(tmp_path / "run", salvage=True)
    check(read, steps, list(range(STEPS)))
    assert len(read.answers) == STEPS // 4
    assert read.problems == (
        f"Part {number:06d} of the recording {str(tmp_path / 'run')!r} is missing.",
    )


def test_a_checkpoint_that_may_be_wrong_is_not_built_on(tmp_path: Path) -> None:
    steps, _ = recorded(tmp_path / "run", Stream())
    known = checkpoints(tmp_path / "run")
    files = parts(tmp_path / "run")
    files[known[1] - 1].unlink()
    data = bytearray(files[known[1]].read_bytes())
    data[-1] ^= 1
    files[known[1]].write_bytes(data)
    read = Recording.open(tmp_path / "run", salvage=True)
    check(read, steps, [*range(known[1] - 1), *range(known[2], STEPS)])


def test_nothing_but_answers_is_left(tmp_path: Path) -> None:
    recorded(tmp_path / "run", Stream())
    for part in parts(tmp_path / "run"):
        part.unlink()
    read = Recording.open(tmp_path / "run", salvage=True)
    assert (len(read.steps), len(read.answers), read.layers) == (0, STEPS // 4, 0)
    assert read.summary().steps == 0 and read.retention().state().size == 0


def test_many_missing_parts_are_one_sentence(tmp_path: Path) -> None:
    recorded(tmp_path / "run", Stream())
    for part in [*parts(tmp_path / "run")[2:20], *parts(tmp_path / "run", "answer")[:5]]:
        part.unlink()
    read = Recording.open(tmp_path / "run", salvage=True)
    assert read.problems[0].startswith("Parts 000002 to 000024 of the recording")
    assert len(read.problems) == 2


def test_steps_that_were_never_recorded_are_told(tmp_path: Path) -> None:
    steps = [(snapshot, table.copy()) for snapshot, table in Stream().play(9)]
    with RecordingWriter(tmp_path / "run", manifest(), level="rows") as writer:
        for snapshot, table in steps:
            if snapshot.step not in (0, 4, 5):
                writer.write_step(snapshot, table)
    read = Recording.open(tmp_path / "run")
    assert read.problems == () and read.verify() == []
    assert read.notes == (
        f"Step 0 of the recording {str(tmp_path / 'run')!r} could not be recorded; what changed meanwhile is in step 1.",
        f"Steps 4 to 5 of the recording {str(tmp_path / 'run')!r} could not be recorded; "
        "what changed meanwhile is in step 6.",
    )
    assert set(read.notes) <= set(read.summary().notes)
