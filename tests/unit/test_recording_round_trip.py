"""What is read equals what was written, field by field and bit by bit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermes_lab.recording import Recording, RecordingWriter, RowFilter
from hermes_lab.snapshot import Answer, AttentionSummary, Snapshot
from hermes_lab.tokens import TokenTable
from tests.recording_strategies import FLOATS, attention_summaries, odd_floats, recorded_streams
from tests.recording_streams import Stream, differences, manifest


def tables_equal(one: TokenTable, two: TokenTable) -> bool:
    """Whether two token tables hold the same rows."""
    return not differences(one.arrays(), two.arrays())


def first_rows(table: TokenTable, count: int) -> TokenTable:
    """The table as it was when it had so many rows."""
    return TokenTable.from_arrays({name: c[:count] for name, c in table.arrays().items()})


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(recorded_streams(), st.randoms(use_true_random=False))
def test_any_snapshots_come_back_equal_in_any_order(
    stream: tuple[list[tuple[Snapshot, int]], TokenTable], order: Any
) -> None:
    steps, table = stream
    with tempfile.TemporaryDirectory() as folder:
        with RecordingWriter(Path(folder, "run"), manifest(), level="rows") as writer:
            for snapshot, rows in steps:
                writer.write_step(snapshot, first_rows(table, rows))
        recording = Recording.open(Path(folder, "run"))
        assert len(recording.steps) == len(steps)
        indices = list(range(len(steps))) * 2
        order.shuffle(indices)
        for index in indices:
            assert differences(recording.steps[index], steps[index][0], "snapshot") == []
        assert tables_equal(recording.tokens, first_rows(table, steps[-1][1] if steps else 0))
        assert recording.verify() == []


@settings(max_examples=50, deadline=None)
@given(
    st.text(max_size=20), st.text(max_size=20), FLOATS, st.lists(st.integers(0, 10**6)),
    st.none() | attention_summaries("question"),
    st.lists(st.tuples(st.text(max_size=3), st.floats(0, 1))),
    st.dictionaries(st.text(max_size=4), st.integers() | st.text() | st.lists(st.booleans())),
)  # fmt: skip
def test_any_answer_comes_back_equal(
    question: str,
    text: str,
    seconds: float,
    token_ids: list[int],
    attention: AttentionSummary | None,
    top: list[tuple[str, float]],
    extra: dict[str, Any],
) -> None:
    logits = odd_floats(np.random.default_rng(len(text)), (11,))
    answer = Answer(
        question, text, tuple(token_ids), 3, seconds, seconds, seconds, logits,
        tuple(top), attention, (1, 2), 77, extra,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        with RecordingWriter(Path(folder, "run"), manifest(), level="rows") as writer:
            writer.write_answer(answer)
        (read,) = Recording.open(Path(folder, "run")).answers
    assert differences(read, answer, "answer") == []


STREAMS = {
    "shared": Stream(),
    "full": Stream(budget=None),
    "per head": Stream(heads=2, protect=2),
    "m-rope, renumbered": Stream(axes=3, renumber=True),
    "summary at the end": Stream(summarise="end"),
    "summary in place": Stream(summarise="sorted", heads=2, axes=3),
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_with_answers_between_steps_come_back_equal(tmp_path: Path, name: str) -> None:
    stream = STREAMS[name]
    written = []
    with RecordingWriter(tmp_path / "run", manifest(), level="rows") as writer:
        for snapshot, table in stream.play(12):
            writer.write_step(snapshot, table)
            written.append(snapshot)
            if snapshot.step % 5 == 2:
                writer.write_answer(stream.answer(snapshot.step), table)
    recording = Recording.open(tmp_path / "run")
    for index in (11, 0, 5, 4, 11):
        assert differences(recording.steps[index], written[index], "snapshot") == []
    assert [differences(s, w) for s, w in zip(recording.steps, written, strict=True)] == [[]] * 12
    assert [a.step for a in recording.answers] == [2, 7]
    assert differences(recording.answers[1], stream.answer(7)) == []
    assert tables_equal(recording.tokens, table)
    assert recording.steps[-1].step == 11
    assert [s.step for s in recording.steps[3:5]] == [3, 4]
    with pytest.raises(IndexError):
        recording.steps[12]


def test_differences_are_noticed() -> None:
    """The comparison that the tests above rest on is not blind."""
    (one, _), (two, _) = list(Stream().play(2))
    assert differences(one, one) == []
    assert any(".held[0]" in line for line in differences(one, two))


def test_summary_level_leaves_rows_out_and_nothing_else(tmp_path: Path) -> None:
    stream = Stream(groups=("chunk", "guidance:recent", "guidance:first"))
    (snapshot, table), *_ = stream.play(1)
    read: dict[str, Snapshot] = {}
    for name, level, rows in (
        ("summary", "summary", None),
        ("rows", "rows", None),
        ("guidance", "rows", RowFilter(groups=("guidance",))),
        ("one", "rows", RowFilter(groups=("guidance:first",), layers=(1, 2))),
        ("layers", "rows", RowFilter(layers=(0,))),
    ):
        with RecordingWriter(tmp_path / name, manifest(), level=level, rows=rows) as writer:
            writer.write_step(snapshot, table)
            writer.write_answer(stream.answer(0))
        recording = Recording.open(tmp_path / name)
        read[name] = recording.steps[0]
        assert differences(read[name], writer.reduce(snapshot)) == []
        (answer,) = recording.answers
        assert answer.attention is not None
        assert bool(answer.attention.rows) is (name == "rows")
    assert {n: [len(a.rows) for a in s.attention] for n, s in read.items()} == {
        "summary": [0, 0, 0],
        "rows": [1, 1, 1],
        "guidance": [0, 1, 1],
        "one": [0, 0, 1],
        "layers": [0, 0, 0],
    }
    assert differences(read["rows"], snapshot) == []


def test_checkpoints_bound_how_far_back_a_step_reads(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "run", manifest()) as writer:
        for snapshot, table in Stream(budget=40).play(200):
            writer.write_step(snapshot, table)
    marks = [
        i for i, p in enumerate(Recording.open(tmp_path / "run").step_parts) if "before" in p.record
    ]
    assert marks[0] == 0
    assert max(np.diff([*marks, 200])) < 60
    assert len(marks) < 40


def test_thumbnails_are_small_pictures_of_the_frames(tmp_path: Path) -> None:
    stream = Stream()
    gradient = np.linspace(0, 255, 320, dtype=np.uint8)[None, :, None].repeat(200, 0).repeat(3, 2)
    with RecordingWriter(tmp_path / "run", manifest()) as writer:
        for snapshot, table in stream.play(3):
            pictures = [gradient if f % 2 else 255 - gradient for f in snapshot.frames]
            writer.write_step(snapshot, table, pictures if snapshot.step != 1 else None)
    recording = Recording.open(tmp_path / "run")
    picture = recording.thumbnail(5)
    assert picture.shape == (100, 160, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - gradient[::2, ::2]).max() < 12
    assert recording.thumbnail(4)[50, 0, 0] > 240
    with pytest.raises(Exception, match="no picture of frame 3"):
        recording.thumbnail(3)
    with pytest.raises(Exception, match="Frame 6 is not in the recording"):
        recording.thumbnail(6)
    for path in (tmp_path / "run" / "parts").glob("*-frames.safetensors"):
        path.unlink()
    recording = Recording.open(tmp_path / "run")
    assert len(list(recording.steps)) == 3
    with pytest.raises(Exception, match="no picture of frame 5"):
        recording.thumbnail(5)
