"""Retention, lives, timelines, summaries and agreement against what the snapshots themselves say."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from hermes_lab.errors import RecordingError
from hermes_lab.recording import (
    Recording,
    RecordingWriter,
    SourceInfo,
    TokenState,
    diff,
    list_recordings,
)
from hermes_lab.snapshot import Snapshot
from hermes_lab.tokens import Role, TokenTable
from tests.recording_strategies import recorded_streams
from tests.recording_streams import Stream, manifest

STREAMS = [
    Stream(),
    Stream(budget=None),
    Stream(heads=2, protect=3),
    Stream(summarise="end", protect=1),
    Stream(summarise="sorted", heads=2),
]


def record(folder: Path, stream: Stream, steps: int = 15) -> tuple[Recording, list[Snapshot]]:
    """Record a stream with an answer after every fifth step."""
    written: list[Snapshot] = []
    with RecordingWriter(folder, manifest()) as writer:
        for snapshot, table in stream.play(steps):
            writer.write_step(snapshot, table)
            written.append(snapshot)
            if snapshot.step % 5 == 4:
                writer.write_answer(stream.answer(snapshot.step))
    return Recording.open(folder), written


def naive_state(snapshots: list[Snapshot], layer: int, ids: np.ndarray) -> list[TokenState]:
    """What became of each token by the last snapshot, read off the snapshots one by one."""
    states: list[TokenState] = []
    for token in ids:
        state = TokenState.ABSENT
        for snapshot in snapshots:
            if token in snapshot.new_ids:
                state = TokenState.EVICTED
            for decision in snapshot.decisions:
                if decision.layer == layer and any(token in m.sources for m in decision.merged):
                    state = TokenState.MERGED
        if token in snapshots[-1].held[layer]:
            state = TokenState.KEPT
            latest = [
                (i, d) for i, s in enumerate(snapshots) for d in s.decisions if d.layer == layer
            ][-1:]
            for index, decision in latest:
                was_there = token in snapshots[index].new_ids or (
                    index > 0 and token in snapshots[index - 1].held[layer]
                )
                if was_there and token not in decision.candidates:
                    state = TokenState.PROTECTED
        states.append(state)
    return states


@pytest.mark.parametrize("stream", STREAMS)
def test_states_are_those_of_the_snapshots(tmp_path: Path, stream: Stream) -> None:
    recording, written = record(tmp_path / "run", stream)
    retention = recording.retention()
    assert set(retention.ids) >= {int(i) for s in written for i in s.new_ids}
    for step in (0, 3, 7, 14):
        for layer in range(3):
            expected = naive_state(written[: step + 1], layer, retention.ids)
            assert retention.state(step)[layer].tolist() == expected
            share = [(written[step].held[layer] == i).any(1).mean() for i in retention.ids]
            np.testing.assert_allclose(retention.held_share(step)[layer], share)
    assert (retention.state() == retention.state(14)).all()
    assert (recording.retention(1).state(7) == retention.state(7)[1:2]).all()
    assert (retention.state(-1) == TokenState.ABSENT).all()


@settings(max_examples=60, deadline=None)
@given(recorded_streams())
def test_stays_are_right_even_where_tokens_come_back_and_heads_change(
    stream: tuple[list[tuple[Snapshot, int]], TokenTable],
) -> None:
    steps, table = stream
    with tempfile.TemporaryDirectory() as folder:
        with RecordingWriter(Path(folder, "run"), manifest()) as writer:
            for snapshot, _ in steps:
                writer.write_step(snapshot, table)
        recording = Recording.open(Path(folder, "run"))
        for layer in range(recording.layers):
            chronicle = recording.chronicle(layer)
            came: dict[int, int] = {}
            last_held: dict[int, int] = {}
            for index, (snapshot, _) in enumerate(steps):
                expected = np.sort(snapshot.held[layer].ravel())
                assert np.sort(chronicle.held(index)).tolist() == expected.tolist()
                for token in (*snapshot.new_ids.tolist(), *expected.tolist()):
                    came.setdefault(token, index)
                last_held |= dict.fromkeys(expected.tolist(), index)
            retention = recording.retention(layer)
            numbers = [snapshot.step for snapshot, _ in steps]
            for column, token in enumerate(retention.ids.tolist()):
                first = numbers[came[token]] if token in came else -1
                gone = max(last_held.get(token, -1) + 1, came.get(token, len(steps)))
                left = numbers[gone] if gone < len(steps) else -1
                assert retention.entered_step[0, column] == first
                assert retention.left_step[0, column] == left


@pytest.mark.parametrize("stream", STREAMS)
def test_a_life_tells_every_compression(tmp_path: Path, stream: Stream) -> None:
    recording, written = record(tmp_path / "run", stream)
    visual = np.flatnonzero(recording.tokens.column("role") == Role.VISUAL)
    for token in (*visual[:9].tolist(), int(visual[-1])):
        life = recording.life(token)
        assert (life.role, life.frame, life.row, life.col) == (
            Role.VISUAL, *(int(recording.tokens.column(n)[token]) for n in ("frame", "row", "col")),
        )  # fmt: skip
        for layer, told in enumerate(life.layers):
            expected = []
            for snapshot in written:
                for decision in (d for d in snapshot.decisions if d.layer == layer):
                    for head, row in enumerate(decision.candidates):
                        for place in np.flatnonzero(row == token):
                            scores = decision.scores[head]
                            order = sorted(range(len(row)), key=lambda i: (-scores[i], -i))
                            expected.append(
                                (
                                    snapshot.step, head, scores[place], order.index(place) + 1,
                                    len(row), decision.kept[head, place],
                                    {n: t[head, place] for n, t in decision.terms.items()},
                                )
                            )  # fmt: skip
            assert [
                (t.step, t.head, t.score, t.rank, t.candidates, t.kept, dict(t.terms))
                for t in told.trials
            ] == expected
            holds = [s.step for s in written if token in s.held[layer]]
            if holds and holds[-1] == written[-1].step:
                assert (told.fate, told.left_step) == ("kept", None)
            else:
                assert told.left_step == (holds[-1] + 1 if holds else told.entered_step)
                assert told.fate == ("merged" if stream.summarise else "evicted")
                assert f"at step {told.left_step}" in told.reason
        assert recording.life(token, layer=1).layers == life.layers[1:2]


def test_a_life_names_what_was_merged(tmp_path: Path) -> None:
    recording, written = record(tmp_path / "run", Stream(summarise="end"))
    merge = written[6].decisions[2].merged[0]
    summary = recording.life(merge.id)
    assert summary.role == Role.SUMMARY
    assert summary.layers[2].sources == tuple(merge.sources.tolist())
    assert summary.layers[2].entered_step == 6
    assert [told.fate for told in summary.layers[:2]] == ["never came"] * 2
    for source in merge.sources.tolist():
        assert merge.id in recording.life(source, 2).layers[0].merged_into
        assert recording.life(source, 2).layers[0].reason.startswith("Merged into ")


def test_unknown_tokens_and_layers_are_named(tmp_path: Path) -> None:
    recording, _ = record(tmp_path / "run", Stream(), 3)
    with pytest.raises(RecordingError, match=r"no token 29 .* 0 to 28\."):
        recording.life(29)
    with pytest.raises(RecordingError, match=r"no layer 3 .* 0 to 2\."):
        recording.retention(3)


def test_timeline_and_summary_add_up(tmp_path: Path) -> None:
    recording, written = record(tmp_path / "run", Stream(summarise="end"))
    line = recording.timeline
    assert line.cache_bytes.tolist() == [s.cache_bytes for s in written]
    assert line.held_tokens[-1].tolist() == [12, 12, 12]
    summary = recording.summary()
    assert (summary.frames, summary.steps, summary.video_tokens) == (30, 15, 120)
    assert summary.kept_tokens == (12, 12, 12)
    for layer in range(3):  # every video or summary token that came is accounted for once
        came = {int(i) for s in written for i in (*s.new_ids, *s.held[layer].ravel())}
        fates = (summary.kept_tokens, summary.evicted_tokens, summary.merged_tokens)
        assert sum(fate[layer] for fate in fates) == len(came)
    assert summary.median_timings_s["prefill_s"] == pytest.approx(0.107)
    assert summary.median_ttft_s == pytest.approx(0.039)
    assert summary.recording_bytes == sum(
        p.stat().st_size for p in (tmp_path / "run").rglob("*") if p.is_file()
    )
    text = summary.to_text()
    for piece in ("hermes", "15 steps", "12 tokens per layer", "A red ball.", "finished", "lazy"):
        assert piece in text
    assert json.loads(summary.to_json())["answers"][0]["text"] == "A red ball."


def test_summaries_of_little_and_of_odd_numbers(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "empty", manifest()):
        pass
    empty = Recording.open(tmp_path / "empty").summary()
    assert (empty.steps, empty.frames, empty.kept_tokens, empty.median_ttft_s) == (0, 0, (), None)
    assert "0 frames in 0 steps" in empty.to_text()
    with RecordingWriter(tmp_path / "odd", manifest()) as writer:
        writer.write_answer(replace(Stream().answer(0), tpot_s=math.nan))
    summary = Recording.open(tmp_path / "odd").summary()
    assert math.isnan(summary.answers[0].tpot_s)
    assert json.loads(summary.to_json())["answers"][0]["tpot_s"] is None


def test_agreement_is_the_jaccard_of_what_is_kept(tmp_path: Path) -> None:
    one, kept_one = record(tmp_path / "one", Stream(seed=1))
    two, kept_two = record(tmp_path / "two", Stream(seed=2, summarise="end", heads=2))
    tables = one.tokens, two.tokens

    def cells(table: TokenTable, ids: np.ndarray) -> set[tuple[int, ...]]:
        names = ("frame", "row", "col")
        role = table.column("role")
        return {
            tuple(int(table.column(n)[i]) for n in names) for i in ids if role[i] == Role.VISUAL
        }

    agreement = diff(one, two)
    assert agreement.frames_seen.tolist() == list(range(2, 31, 2))
    for step in range(15):
        for layer in range(3):
            first = cells(tables[0], kept_one[step].held[layer][0])
            shared = either = 0
            for head in range(2):
                second = cells(tables[1], kept_two[step].held[layer][head])
                shared, either = shared + len(first & second), either + len(first | second)
            assert agreement.jaccard[step, layer] == pytest.approx(shared / either)
    assert diff(one, one).mean == 1.0
    assert 0 < agreement.mean < 1
    assert json.loads(agreement.to_json())["mean"] == agreement.mean
    assert agreement.per_layer.shape == (3,)


def test_agreement_compares_where_both_end_a_step(tmp_path: Path) -> None:
    one, _ = record(tmp_path / "one", Stream(budget=None, chunk_frames=2), 6)
    two, _ = record(tmp_path / "two", Stream(budget=None, chunk_frames=3), 4)
    agreement = diff(one, two)
    assert agreement.frames_seen.tolist() == [6, 12]
    assert agreement.mean == 1.0
    odd, _ = record(tmp_path / "odd", Stream(chunk_frames=7), 1)
    with pytest.raises(RecordingError, match="never end a step at the same frame"):
        diff(one, odd)


def test_agreement_of_different_streams_is_refused(tmp_path: Path) -> None:
    one, _ = record(tmp_path / "one", Stream(), 2)
    with RecordingWriter(
        tmp_path / "two", manifest(source=SourceInfo("other.mp4", "file", "f" * 64))
    ) as writer:
        for snapshot, table in Stream().play(2):
            writer.write_step(snapshot, table)
    with pytest.raises(RecordingError, match="source files"):
        diff(one, Recording.open(tmp_path / "two"))


@pytest.mark.parametrize(
    ("one", "two", "differ"),
    [
        (("world:seed=7", "world", None), ("world:seed=7", "world", None), None),
        (("world:seed=7", "world", None), ("world:seed=8", "world", None), "sources"),
        (("world:seed=7", "world", None), ("clip.mp4", "file", "0" * 64), "sources"),
        (("a.mp4", "file", "0" * 64), ("renamed.mp4", "file", "0" * 64), None),
        (("a.mp4", "file", "0" * 64), ("a.mp4", "file", "f" * 64), "source files"),
        (("camera 0", "camera", None), ("camera 1", "camera", None), "sources"),
    ],
)
def test_streams_are_told_apart_by_their_bytes_or_by_their_names(
    tmp_path: Path, one: tuple, two: tuple, differ: str | None
) -> None:
    recordings: list[Recording] = []
    for name, source in (("one", one), ("two", two)):
        with RecordingWriter(tmp_path / name, manifest(source=SourceInfo(*source))) as writer:
            for snapshot, table in Stream().play(2):
                writer.write_step(snapshot, table)
        recordings.append(Recording.open(tmp_path / name))
    if differ is None:
        assert diff(*recordings).mean == 1.0
    else:
        with pytest.raises(RecordingError, match=f"their {differ} differ"):
            diff(*recordings)


def test_recordings_of_a_folder_are_listed_newest_first(tmp_path: Path) -> None:
    for name, created in (("b", "2025-01-01"), ("a", "2026-01-01"), ("c", "2024-01-01")):
        with RecordingWriter(tmp_path / name, manifest(created=created)) as writer:
            for snapshot, table in Stream().play(2):
                writer.write_step(snapshot, table)
            writer.write_answer(Stream().answer(1))
    (tmp_path / "notes").mkdir()
    newer = tmp_path / "c" / "manifest.json"
    newer.write_text(newer.read_text().replace('"format_version": 2', '"format_version": 9'))
    entries = list_recordings(tmp_path)
    assert [entry.folder.name for entry in entries] == ["a", "b", "c"]
    assert [(e.steps, e.answers, e.problem is None) for e in entries] == [
        (2, 1, True), (2, 1, True), (2, 1, False),
    ]  # fmt: skip
    assert "upgrade" in str(entries[2].problem)
    assert entries[0].size_bytes == Recording.open(tmp_path / "a").summary().recording_bytes
    assert [e.folder.name for e in list_recordings(tmp_path / "b")] == ["b"]
    assert list_recordings(tmp_path / "absent") == []
