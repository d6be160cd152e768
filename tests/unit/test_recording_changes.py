"""What changed is written once, and is enough: rows come back, old recordings open, nothing is said twice."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_lab.recording import Recording, RecordingWriter
from hermes_lab.recording.compact import pack_rows, unpack_rows
from hermes_lab.recording.multiples import Multiples, Stored
from hermes_lab.snapshot import Snapshot
from tests.recording_streams import Stream, differences, manifest

OLD = Path(__file__).parents[1] / "data" / "first_format.zip"  # written before format 2 existed
OLD_STREAMS = {
    "shared": (Stream(layers=2, query_heads=1), 18),
    "full": (Stream(layers=2, query_heads=1, budget=None), 4),
    "per-head": (Stream(layers=2, query_heads=1, heads=2, axes=3, summarise="sorted"), 10),
    "renumbered": (
        Stream(layers=2, query_heads=1, renumber=True, summarise="end", protect=2),
        10,
    ),
}


@pytest.mark.parametrize("name", OLD_STREAMS)
def test_recordings_of_format_1_tell_what_they_told(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(OLD) as files:
        files.extractall(tmp_path)
    stream, steps = OLD_STREAMS[name]
    read = Recording.open(tmp_path / name)
    assert read.manifest.format_version == 1 and read.verify() == []
    with RecordingWriter(tmp_path / "new", manifest()) as writer:
        played = [(writer.reduce(snapshot), table.copy()) for snapshot, table in stream.play(steps)]
        for snapshot, table in played:
            writer.write_step(snapshot, table)
    for index in (steps - 1, 0, *range(steps)):
        untold = replace(played[index][0], changes=())
        assert differences(read.steps[index], untold) == []
    new = Recording.open(tmp_path / "new")
    for layer in range(2):
        assert differences(read.chronicle(layer), new.chronicle(layer)) == []
        assert read.life(9, layer).layers[0].reason == new.life(9, layer).layers[0].reason
    assert differences(read.tokens.arrays(), new.tokens.arrays()) == []


@pytest.mark.parametrize(
    "stream",
    [Stream(), Stream(heads=2, axes=3, summarise="sorted"), Stream(renumber=True, budget=None)],
)
def test_a_stream_that_tells_and_one_that_does_not_are_read_alike(
    tmp_path: Path, stream: Stream
) -> None:
    for name, told in (("told", True), ("untold", False)):
        with RecordingWriter(tmp_path / name, manifest()) as writer:
            for snapshot, table in replace(stream, told=told).play(12):
                writer.write_step(snapshot, table)
    told, untold = (Recording.open(tmp_path / name) for name in ("told", "untold"))
    assert all(part.record["change"] is not None for part in told.step_parts)
    assert all(part.record["change"] is None for part in untold.step_parts)
    for one, two in zip(told.steps, untold.steps, strict=True):
        assert len(one.changes) == 3 and two.changes == ()
        assert differences(replace(one, changes=()), two) == []


def test_changes_that_do_not_lead_to_what_is_held_are_not_believed(tmp_path: Path) -> None:
    (first, _), (second, table), *_ = [(s, t.copy()) for s, t in Stream().play(2)]
    other = replace(second, held=tuple(rows[:, ::-1].copy() for rows in second.held))
    with RecordingWriter(tmp_path / "run", manifest(), level="rows") as writer:
        writer.write_step(first, table)
        writer.write_step(other, table)
    assert differences(Recording.open(tmp_path / "run").steps[1], replace(other, changes=())) == []


def test_what_the_changes_tell_is_not_written_again(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "run", manifest()) as writer:
        for snapshot, table in Stream(summarise="end").play(6):
            writer.write_step(snapshot, table)
    part = Recording.open(tmp_path / "run").step_parts[5]
    assert (
        not {"candidates", "kept", "sources", "spared", "after.held", "moved_to.first"} & part.names
    )
    evicted = sum(
        change.evicted.size for change in Recording.open(tmp_path / "run").steps[5].changes
    )
    assert sum(a.nbytes for a in part.read("evicted.first", "evicted.steps")) <= evicted + 2 * 3


def test_a_step_behind_a_refused_one_still_tells_its_change(tmp_path: Path) -> None:
    played = [(s, t.copy()) for s, t in Stream(summarise="sorted").play(8)]
    with RecordingWriter(tmp_path / "run", manifest(), level="rows") as writer:
        for snapshot, table in played:
            if snapshot.step in (3, 4):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(writer, "_encode_tokens", _refuse)
                    with pytest.raises(Exception, match="refused"):
                        writer.write_step(snapshot, table)
            else:
                writer.write_step(snapshot, table)
    read = Recording.open(tmp_path / "run")
    kept = [snapshot for snapshot, _ in played if snapshot.step not in (3, 4)]
    assert [differences(one, two) for one, two in zip(read.steps, kept, strict=True)] == [[]] * 6
    assert read.restarts == frozenset({3})
    for layer in range(3):
        for index, snapshot in enumerate(kept):
            held = np.sort(snapshot.held[layer].ravel()).tolist()
            assert np.sort(read.chronicle(layer).held(index)).tolist() == held


def _refuse(*_: Any) -> Any:
    raise ValueError("refused")


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([3, 300, 10**5, 2**40]), st.booleans())
def test_rows_come_back(seed: int, span: int, ascending: bool) -> None:
    rng = np.random.default_rng(seed)
    shapes = [
        (int(rng.integers(0, 4)), int(rng.integers(0, 30))) for _ in range(rng.integers(0, 4))
    ]
    if rng.random() < 0.5:
        shapes = [(2, 20)] * 3
    blocks = [rng.integers(-span, span, shape) for shape in shapes]
    if ascending:
        blocks = [np.sort(block, 1) for block in blocks]
    if rng.random() < 0.3 and shapes:
        blocks = [np.arange(n)[None].repeat(rows, 0) + 7 for rows, n in shapes]
    firsts, steps = pack_rows(blocks)
    for one, two in zip(unpack_rows(firsts, steps, shapes), blocks, strict=True):
        assert one.tolist() == two.tolist()
    with pytest.raises(ValueError, match="do not fit"):
        unpack_rows(firsts, steps, [*shapes, (1, 1)])


def test_rows_that_grow_alike_take_one_number_each() -> None:
    blocks = [np.arange(1000)[None] + 5000 * n for n in range(12)]
    firsts, steps = pack_rows(blocks)
    assert (len(firsts), steps.tolist()) == (12, [1])
    gaps = np.cumsum(np.random.default_rng(0).integers(1, 9, 1000))[None]
    assert pack_rows([gaps, gaps + 3])[1].nbytes == 999
    assert pack_rows([np.array([[0, 600, 601, 602, 603]])])[1].tolist() == [255, 255, 90, 1, 1, 1]
    with pytest.raises(ValueError, match="more than there can be"):
        unpack_rows(firsts, steps, [(1, 2**40)])


def test_multiples_are_found_kept_in_mind_and_exact() -> None:
    rng = np.random.default_rng(1)
    known = Multiples()
    for _ in range(6):
        base, other = (rng.random((1, 64), np.float32) for _ in range(2))
        arrays = [
            ((0, None), other),
            ((0, "above"), base * np.float32(0.3)),
            ((0, "zero"), np.zeros_like(base)),
            ((1, None), base),
            ((1, "own"), base.copy()),
        ]
        found = known.find(arrays)
        assert {n for n, _, _ in found} == {1, 2, 3}
        made = {n for n, _, _ in found}
        values = np.concatenate([a.ravel() for n, (_, a) in enumerate(arrays) if n not in made])
        stored = Stored(values, [a.shape for _, a in arrays], found)
        assert [differences(stored[n], a) for n, (_, a) in enumerate(arrays)] == [[]] * 5
    nearly = base * np.float32(0.3)
    nearly[0, 5] = np.nextafter(nearly[0, 5], np.float32(1))
    odd = [
        ((0, None), nearly),
        ((1, None), base),
        ((2, None), np.full((1, 64), np.nan, np.float32)),
    ]
    assert Multiples().find(odd) == []
    with pytest.raises(ValueError, match="the multiple of a multiple"):
        Stored(values, [(64,)] * 3, [(0, 1, 1.0), (1, 2, 1.0)])


def test_sessions_need_no_recording_before_one_is_made() -> None:
    code = (
        "import sys, hermes_lab.stream.session, hermes_lab.retention.apply;"
        "print(sorted(name for name in sys.modules if name.startswith('hermes_lab.recording')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_copy_with_other_values_looks_at_nothing() -> None:
    from hermes_lab.later import later, unseen

    ((snapshot, _),) = Stream().play(1)
    looks: list[int] = []

    def look() -> tuple[Any, ...]:
        looks.append(1)
        return snapshot.held

    lazy = replace(snapshot, held=later(look))
    assert isinstance(lazy.amended(notes=("so",)), Snapshot)
    assert not looks and unseen(lazy, "held") is not None
    assert lazy.held is snapshot.held and lazy.held is snapshot.held
    assert looks == [1] and unseen(lazy, "held") is None
