"""A step tells what it changed, copies nothing before somebody looks, and keeps no keys or values alive."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from hermes_lab import StreamSession
from hermes_lab.lab import Lab
from hermes_lab.later import unseen
from hermes_lab.recording import Recording
from hermes_lab.recording.standing import change_layer
from hermes_lab.recording.state import CacheState
from hermes_lab.snapshot import Snapshot
from tests.recording_streams import differences
from tests.reference.streams import noise

Labs = Callable[[str], tuple[Lab, Path]]
FIELDS = ("held", "positions", "changes")
RUNS = [
    ("full", "keep"),
    ("hermes(budget_tokens=48)", "lazy"),
    ("hermes(budget_tokens=48, summary_position='latest_evicted')", "eager"),
    ("streammem(budget_tokens=48)", "keep"),
    ("snapkv(budget_tokens=48)", "eager"),
    ("fifo(budget_tokens=48)", "contiguous"),
]


def looked_at(snapshot: Snapshot) -> set[str]:
    return {name for name in FIELDS if unseen(snapshot, name) is None}


@pytest.mark.parametrize(("policy", "positions"), RUNS)
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl"])
def test_changes_lead_from_step_to_step_live_and_recorded(
    labs: Labs, tmp_path: Path, family: str, policy: str, positions: str
) -> None:
    run = StreamSession(labs(family)[0], policy, positions=positions, record=tmp_path / "run")
    steps = [run.feed(noise(6, seed)) for seed in range(5)]
    assert all(looked_at(step) == {"changes"} for step in steps)
    run.close()
    read = Recording.open(tmp_path / "run")
    assert all(part.record["change"] is not None for part in read.step_parts)
    state = CacheState()
    for live, replayed in zip(steps, read.steps, strict=True):
        layers = [change_layer(state, n, change) for n, change in enumerate(live.changes)]
        state = CacheState(tuple(ids for ids, _ in layers), tuple(at for _, at in layers))
        assert differences(state.held, live.held) == []
        assert differences(state.positions, live.positions) == []
        for name in ("new_ids", "decisions", *FIELDS):
            assert differences(getattr(replayed, name), getattr(live, name)) == []
    gone = [change.evicted.size for step in steps for change in step.changes]
    assert bool(sum(gone)) is (policy != "full")


def test_a_step_that_nobody_records_copies_nothing(
    labs: Labs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StreamSession(labs("llava_onevision")[0], "full")
    run.feed(noise(2, 0))
    copies: list[tuple[int, ...]] = []
    original = Tensor.cpu

    def counted(tensor: Tensor) -> Tensor:
        copies.append(tuple(tensor.shape))
        return original(tensor)

    monkeypatch.setattr(Tensor, "cpu", counted)
    step = run.feed(noise(2, 1))
    assert copies == [] and looked_at(step) == set()
    held = step.held
    assert len(copies) == 1, "all layers of one shape together"
    assert step.held is held and looked_at(step) == {"held"}
    assert len(step.positions) == len(held) and len(copies) == 2


def test_what_was_held_does_not_change_when_the_stream_goes_on(labs: Labs) -> None:
    lab = labs("llava_onevision")[0]
    early, late = (StreamSession(lab, "hermes(budget_tokens=48)") for _ in range(2))
    seen = [early.feed(noise(2, seed)) for seed in range(5)]
    for step in seen:
        assert step.held and step.positions and step.changes
    unlooked = [late.feed(noise(2, seed)) for seed in range(5)]
    for one, two in zip(seen, unlooked, strict=True):
        for name in FIELDS:
            assert differences(getattr(one, name), getattr(two, name)) == []
    unpickled = pickle.loads(pickle.dumps(late.feed(noise(2, 5))))
    assert looked_at(unpickled) == set(FIELDS) and len(unpickled.changes) == len(unpickled.held)


def test_old_snapshots_keep_no_keys_and_values(labs: Labs) -> None:
    run = StreamSession(labs("llava_onevision")[0], "hermes(budget_tokens=48)")
    steps: list[Snapshot] = []
    keys: list[weakref.ref[Tensor]] = []
    for seed in range(4):
        steps.append(run.feed(noise(2, seed)))
        state = run.stream.cache.states[0]
        assert state.keys is not None and state.values is not None
        keys += [weakref.ref(state.keys), weakref.ref(state.values)]
        del state
    gc.collect()
    assert [ref() is None for ref in keys] == [True] * 6 + [False] * 2
    tensors = [weakref.ref(state.ids) for state in run.stream.cache.states]
    last = steps[-1]
    assert last.held and last.positions and last.changes
    run.feed(noise(2, 9))
    gc.collect()
    assert all(ref() is None for ref in tensors), "what was looked at is kept as arrays only"
    assert all(isinstance(ids, np.ndarray) for ids in last.held)
