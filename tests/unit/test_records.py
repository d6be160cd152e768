"""Records leave their process, refuse changes, and show themselves in a line or a small picture."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from hermes_lab import bundled
from hermes_lab.brief import brief, bytes_text, span_text
from hermes_lab.engine.cache import LayerState
from hermes_lab.frozen import Frozen
from hermes_lab.policies.base import Admission, Scores
from hermes_lab.recording import Recording
from hermes_lab.snapshot import Answer, LayerDecision, Snapshot
from hermes_lab.snapshot_html import held_share
from tests.recording_streams import Stream, differences

LONGEST_REPR = 600


def recorded() -> Recording:
    return Recording.open(bundled.recording_path())


def a_snapshot(steps: int = 4, **changes: Any) -> Snapshot:
    *_, (snapshot, _) = Stream(**changes).play(steps)
    return snapshot


def records() -> dict[str, Any]:
    recording = recorded()
    bare = Answer("?", "", (), 0, 0.0, 0.0, 0.0, np.zeros(3, np.float32))
    fresh = a_snapshot()
    return {
        "an answer with defaults": bare,
        "a fresh answer": Stream().answer(3),
        "an answer from a recording": recording.answers[0],
        "a fresh snapshot": fresh,
        "a snapshot from a recording": recording.steps[-1],
        "a fresh decision": fresh.decisions[0],
        "a decision from a recording": recording.steps[-1].decisions[0],
        "a decision with defaults": LayerDecision(
            0, np.zeros((1, 2), np.int64), np.ones((1, 2), np.bool_), np.zeros((1, 2), np.float32)
        ),
        "a summary from a recording": recording.steps[-1].attention[0],
        "scores": Scores(torch.zeros(1, 3)),
        "an admission": Admission(torch.arange(3)),
        "a layer's state": LayerState(
            None, None, torch.zeros(1, 0).long(), torch.zeros(1, 1, 0).long()
        ),
    }


@pytest.mark.parametrize("name", records())
def test_records_leave_their_process(name: str) -> None:
    record = records()[name]
    for made in (pickle.loads(pickle.dumps(record)), copy.deepcopy(record), copy.copy(record)):
        assert type(made) is type(record)
        if isinstance(record, Snapshot | Answer | LayerDecision):
            assert differences(made, record) == []
    plain = asdict(record)
    assert set(plain) == {field.name for field in fields(record)}


def test_mappings_of_records_refuse_changes_and_are_written_as_json() -> None:
    extra: Any = recorded().answers[0].extra
    frozen = Frozen({"a": 1})
    for change in (
        lambda: frozen.update(b=2),
        lambda: frozen.__setitem__("b", 2),
        lambda: frozen.pop("a"),
        lambda: frozen.setdefault("b", 2),
        frozen.clear,
        frozen.popitem,
        lambda: frozen.__delitem__("a"),
        lambda: frozen.__ior__({"b": 2}),
        lambda: extra.__setitem__("b", 2),
    ):
        with pytest.raises(TypeError, match="frozen record"):
            change()
    assert frozen == {"a": 1} and json.dumps(frozen) == '{"a": 1}'
    unpickled = pickle.loads(pickle.dumps(frozen))
    assert isinstance(unpickled, Frozen) and unpickled == frozen


def parts_of(recording: Recording) -> dict[str, Any]:
    retention = recording.retention()
    return {
        "recording": recording,
        "steps": recording.steps,
        "manifest": recording.manifest,
        "part": recording.step_parts[-1],
        "retention": retention,
        "chronicle": recording.chronicle(0),
        "timeline": recording.timeline,
        "life": recording.life(int(retention.ids[40])),
        "summary": recording.summary(),
        "state": recording.state(3),
        "difference": recording.diff(3),
    }


@pytest.mark.parametrize("name", [*records(), *parts_of(recorded())])
def test_representations_are_short(name: str) -> None:
    record = (records() | parts_of(recorded()))[name]
    text = repr(record)
    assert type(record).__name__ in text
    assert len(text) <= LONGEST_REPR and text.count("\n") <= 3, text


def test_the_headline_says_what_the_step_did() -> None:
    snapshot = replace(a_snapshot(), notes=("mind this",))
    said = repr(snapshot)
    gone = sum(int((~d.kept).sum()) for d in snapshot.decisions)
    for part in (
        "step 3",
        "2 frames, 8 so far",
        "7.0 s",
        "3 layers hold 12 tokens",
        f"evicted {gone}",
        "1 note",
    ):
        assert part in said
    assert "3 layers hold 12 to 14" in repr(
        replace(snapshot, held=(*snapshot.held[:2], np.arange(14)[None]))
    )
    assert repr(Stream().answer(1, "Who " * 50)).count("Who") < 16
    assert "A red ball." in repr(Stream().answer(1))


def test_brief_shows_arrays_by_shape_and_collections_by_size() -> None:
    assert brief(np.zeros((2, 3), np.float32)) == "float32[2, 3]"
    assert brief(torch.zeros(4)) == "float32[4]"
    assert brief((1, 2)) == "(1, 2)"
    assert brief(tuple(range(9))) == "<9 items>"
    assert brief([np.zeros(3)]) == "<1 items>"
    assert brief({"a": np.zeros(3), "b": 1}) == "{'a', 'b'}"
    assert brief(None) == "None"
    assert len(brief("x" * 1000)) < 70
    assert len(brief(object)) < 70


@pytest.mark.parametrize(
    ("values", "text"),
    [((3, 1, 2), "1 to 3"), ((1000,), "1,000"), ((7, 7), "7"), ((), "0"), ((5, 40960), "5 to 40,960")],
)  # fmt: skip
def test_whole_numbers_of_layers_are_one_number_or_a_range(
    values: tuple[int, ...], text: str
) -> None:
    assert span_text(iter(values)) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (3 * 2**40, "3.0 TiB")],
)
def test_bytes_are_written_in_the_unit_that_fits(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_the_picture_is_small_plain_svg_and_escapes_its_words() -> None:
    snapshot = replace(a_snapshot(6, heads=2, layers=40), notes=("<script>x</script> & more",))
    drawn = snapshot._repr_html_()
    page = ElementTree.fromstring(drawn)
    assert "script" not in {element.tag.rpartition("}")[2] for element in page.iter()}
    assert "&lt;script&gt;" in drawn
    assert len(drawn) < 60_000
    paths = page.findall(".//{http://www.w3.org/2000/svg}path")
    assert paths and all(path.get("d") for path in paths)
    assert not any(
        word in drawn for word in ("http:", "https:") if f'="{word}//www.w3.org' not in drawn
    )


@pytest.mark.parametrize("heads", [1, 2])
def test_the_picture_shows_who_is_held(heads: int) -> None:
    snapshot = a_snapshot(30, heads=heads)
    share = held_share(snapshot)
    assert share.shape == (3, 80)
    first = 5  # the system prompt's tokens were given the first ids
    count = int(snapshot.new_ids.max()) + 1 - first
    for layer, ids in enumerate(snapshot.held):
        for column in (0, 40, 79):
            members = [i for i in range(count) if i * 80 // count == column]
            held = sum(int((ids == first + i).sum()) for i in members)
            assert share[layer, column] == pytest.approx(held / heads / len(members))
    everything = held_share(a_snapshot(30, budget=None))
    assert (everything == 1).all()


def test_an_empty_snapshot_is_drawn_too() -> None:
    nothing = np.empty((1, 0), np.int64)
    snapshot = replace(
        a_snapshot(1, budget=None),
        held=(nothing,) * 3,
        positions=(),
        new_ids=nothing[0],
        tokens_seen=0,
    )
    assert (held_share(snapshot) == 0).all()
    assert ElementTree.fromstring(snapshot._repr_html_()) is not None
    assert (held_share(replace(snapshot, held=())).size) == 0


def test_a_pickled_recording_reads_on(tmp_path: Path) -> None:
    recording = pickle.loads(pickle.dumps(recorded()))
    assert differences(recording.steps[2], recorded().steps[2]) == []
