"""A policy without a budget is never `full` by accident: the session settles one, says so, and writes it down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hermes_lab import StreamSession, policies
from hermes_lab.errors import PolicyError
from hermes_lab.lab import Lab
from hermes_lab.policies import registry
from hermes_lab.policies.base import UNBOUNDED, LayerView, Policy
from hermes_lab.policies.kvpress import KVPress
from hermes_lab.recording import Recording
from hermes_lab.stream.default_budget import default_tokens
from hermes_lab.stream.frame_size import FrameSize
from tests.reference.streams import QUESTION, noise

Labs = Callable[[str], tuple[Lab, Path]]

KEEPS_EVERYTHING = {"full"}
OWN_LIMIT = {"recent_frames", "streaming_vlm", "curvestream", "dscache"}  # in frames or seconds
OWN_BUDGET = {"rekv", "streamingtom"}
GATES = {"every_nth", "merge_similar", "fluxmem", "streammem"}  # few tokens may come in
MADE_OF_OTHERS = {
    "instant": "instant(inner=hermes, recent_frames=2)",
    "with_budget": "with_budget(inner=h2o)",
    "with_summary": "with_summary(inner=fifo)",
    "with_positions": "with_positions(inner=keydiff)",
    "shared_heads": "shared_heads(inner=lagkv(lag_tokens=6))",
    "prefiltered": "prefiltered(inner=hermes, gate=every_nth(stride=1))",
    "banded": "banded(shallow=fifo, middle=h2o, deep=hermes)",
    "layered": 'layered(parts=("fifo", "h2o", "knorm", "tova"))',
    "composed": 'composed(parts=("knorm(budget_tokens=400)", "h2o"))',
}
FIELDS = {"pyramidkv": "(beta=1.2)", "lagkv": "(sink_tokens=2, lag_tokens=6)"}
NAMES = [n for n in registry.BUILTIN if n != "kvpress"]  # which needs a press: see below


@pytest.fixture
def lab(labs: Labs) -> Lab:
    return labs("llava_onevision")[0]


def started(lab: Lab, policy: Policy | str, **options: Any) -> StreamSession:
    session = StreamSession(lab, policy, evaluation=True, **options)
    session.future_question = QUESTION
    return session


def expected_budget(session: StreamSession) -> int:
    """32 frames' worth, counted from the token table: all tokens of the first frame (or pair)."""
    frame = session.table.column("frame")
    first = frame[frame >= 0].min()
    groups = -(-32 // session.run.frames_per_group)
    return max(groups * int((frame == first).sum()), session.protected_tokens)


@pytest.mark.parametrize("name", NAMES)
def test_every_policy_is_bounded_without_being_told(lab: Lab, name: str) -> None:
    spec = MADE_OF_OTHERS.get(name, name + FIELDS.get(name, ""))
    session = started(lab, spec)
    first = session.feed(noise(4, 0))
    budgets = session.policy.budgets(lab.layers)
    if name in KEEPS_EVERYTHING:
        assert budgets is None
        assert first.notes == ()
        return
    assert budgets is not None
    if name in OWN_LIMIT:
        assert budgets == [UNBOUNDED] * lab.layers
        assert first.notes == ()
        return
    if name in OWN_BUDGET:
        assert session.policy == policies.get(spec)
        return
    size = len(lab.adapter.encode(list(noise(4, 0)), (0.0, 1.0, 2.0, 3.0))) // 4
    assert sum(budgets) == pytest.approx(32 * size * lab.layers, abs=lab.layers)
    assert first.notes == (f"{name} has no budget: 32 frames of {size} tokens = {32 * size} tokens per layer are kept.",)  # fmt: skip
    assert policies.from_config(session.policy.config()) == session.policy
    evicted = False
    for step in range(1, 12):
        snapshot = session.feed(noise(4, step))
        assert snapshot.notes == (), "it is said once"
        evicted |= bool(snapshot.decisions)
        assert sum(ids.shape[1] for ids in snapshot.held) <= sum(budgets)
    assert evicted or name in GATES


def test_every_policy_is_looked_at() -> None:
    """A new policy that is made of others needs an entry above; all others are taken by their names."""
    required = {n for n in NAMES if any(f.required for f in policies.info(n).fields)}
    assert required == set(MADE_OF_OTHERS)


class _Press:
    """A press in kvpress' form."""

    compression_ratio = 0.0

    def score(self, module: Any, hidden: Any, keys: torch.Tensor, *_: Any) -> torch.Tensor:
        return keys[..., 0]


def test_a_press_is_bounded_too(lab: Lab) -> None:
    run = StreamSession(lab, KVPress(press=_Press()))
    (note,) = run.feed(noise(4, 0)).notes
    assert note.startswith("kvpress has no budget: 32 frames of 9 tokens = 288 tokens")
    assert run.policy.budget_tokens == 288
    while not run.feed(noise(8, run.stream.step)).decisions:
        assert run.stream.step < 10


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl", "idefics3"])
@pytest.mark.parametrize("side", [56, 224])
def test_the_budget_is_measured_in_the_frames_that_are_streamed(
    labs: Labs, family: str, side: int
) -> None:
    """Not in frames of some other size: what 32 of these frames take, their markers with them."""
    lab, _ = labs(family)
    session = StreamSession(lab, "fifo")
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), dtype=np.uint8)
    (note, *_) = session.feed(images).notes
    wanted = expected_budget(session)
    assert session.policy.budget_tokens == wanted
    assert f"{wanted} tokens per layer" in note
    if session.run.frames_per_group == 2 and wanted > session.protected_tokens:
        assert "16 pairs of frames of" in note


def test_large_pictures_get_a_larger_budget(labs: Labs) -> None:
    lab, _ = labs("qwen3_vl")
    small, large = StreamSession(lab, "fifo"), StreamSession(lab, "fifo")
    generator = np.random.default_rng(0)
    small.feed(generator.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8))
    large.feed(generator.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8))
    assert (large.policy.budget_tokens or 0) > (small.policy.budget_tokens or 0)


def test_where_the_first_chunk_is_cut_does_not_matter(labs: Labs) -> None:
    """A question early in the stream cuts the first chunk: one frame of a pair is still half of a pair."""
    lab, _ = labs("qwen2_5_vl")
    whole, cut = StreamSession(lab, "fifo"), StreamSession(lab, "fifo")
    whole.feed(noise(4, 0))
    cut.feed(noise(1, 0))
    assert whole.policy == cut.policy


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        (FrameSize(16), 512),
        (FrameSize(9, 2), 144),
        (FrameSize(196), 4096),
        (FrameSize(720, 2), 4096),
        (FrameSize(5000, 2), 5000),
    ],
)
def test_at_most_4k_and_never_less_than_a_frame(size: FrameSize, tokens: int) -> None:
    assert default_tokens(size) == tokens


def test_the_manifest_has_the_budget_that_was_settled(lab: Lab, tmp_path: Path) -> None:
    with StreamSession(lab, "hermes", record=tmp_path / "run") as run:
        snapshot = run.feed(noise(4, 0))
        wanted = expected_budget(run)
    recording = Recording.open(tmp_path / "run")
    assert policies.from_config(recording.manifest.policy) == run.policy
    assert recording.manifest.policy["budget_tokens"] == wanted
    assert recording.steps[0].notes == snapshot.notes
    assert snapshot.notes[0].startswith("hermes has no budget: 32 frames of")


def test_a_policy_chosen_before_the_first_frame_is_the_one_in_the_manifest(
    lab: Lab, tmp_path: Path
) -> None:
    with StreamSession(lab, "hermes", record=tmp_path / "run") as run:
        run.set_policy("fifo(budget_tokens=60)", "eager")
        run.feed(noise(2, 0))
    manifest = Recording.open(tmp_path / "run").manifest
    assert (manifest.policy["policy"], manifest.policy["budget_tokens"]) == ("fifo", 60)
    assert manifest.positions == "eager"


def test_forks_replays_and_changes_keep_it(lab: Lab) -> None:
    run = StreamSession(lab, "fifo", keep_visual=True)
    early = run.fork()
    run.feed(noise(4, 0))
    early.feed(noise(4, 0))
    assert early.policy == run.policy
    wanted = expected_budget(run)
    assert run.fork().policy == run.policy
    fork = run.fork("snapkv")
    assert fork.policy.budget_tokens == wanted, "what a frame takes is known by then"
    assert fork.feed(noise(4, 1)).notes[-1].startswith("snapkv has no budget: 32 frames of")
    assert run.policy.name == "fifo"
    run.set_policy("h2o")
    assert run.policy.budget_tokens == wanted
    notes = run.feed(noise(4, 1)).notes
    assert f"h2o(budget_tokens={wanted}" in notes[0]
    assert notes[1].startswith("h2o has no budget: 32 frames of")
    assert run.replay("uniform").policy.budget_tokens == wanted


class _FailsOnce(Policy):
    """Raises in its first step, before anything is decided."""

    name = "fails_once"

    def observe(self, view: LayerView) -> dict[str, torch.Tensor]:
        if view.step == 0 and FAULTS:
            raise RuntimeError(FAULTS.pop())
        return {}

    def score(self, view: LayerView) -> torch.Tensor:
        return view.ids.float()


FAULTS: list[str] = []


def test_a_step_that_is_undone_leaves_no_budget_and_no_note(lab: Lab) -> None:
    FAULTS[:] = ["it broke"]
    run = StreamSession(lab, _FailsOnce())
    with pytest.raises(PolicyError, match="it broke"):
        run.feed(noise(4, 0))
    assert run.policy.budget_tokens is None
    assert run.run.notes == run.budget_notes == ()
    (note,) = run.feed(noise(2, 0)).notes
    assert "fails_once has no budget" in note


# --- what is said of a budget ------------------------------------------------------------------
def test_a_budget_below_a_frame_is_said_once(lab: Lab) -> None:
    run = StreamSession(lab, "fifo(budget_tokens=8)")
    first, second = run.feed(noise(2, 0)), run.feed(noise(2, 1))
    (note,) = first.notes
    assert note.startswith(
        "A budget of 8 tokens per layer is smaller than one frame of this stream (9 tokens)"
    )
    assert second.notes == ()
    assert run.budget_notes == first.notes


def test_a_frame_is_what_a_gate_lets_in_of_it(lab: Lab) -> None:
    gate = "prefiltered(inner=fifo(budget_tokens=8), gate=streamingtom(frame_tokens=4, dynamic_by=norm))"
    assert StreamSession(lab, gate).feed(noise(2, 0)).notes == ()


def test_frames_that_grow_are_compared_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny models give all pictures few tokens, so the sizes are made up here."""
    run = StreamSession(lab, "fifo(budget_tokens=50)")
    notes: list[tuple[str, ...]] = []
    for size in (FrameSize(4, 2), FrameSize(80, 2), FrameSize(80, 2)):
        for module in ("run", "step"):
            name = f"hermes_lab.stream.{module}.frame_size"
            monkeypatch.setattr(name, lambda *_, size=size: size)
        notes.append(run.feed(noise(2, 0)).notes)
    assert [len(n) for n in notes] == [0, 1, 0]
    assert "smaller than one pair of frames of this stream (80 tokens)" in notes[1][0]


def test_pairs_of_frames_are_named_as_such() -> None:
    assert FrameSize(720, 2).counted(5) == "5 pairs of frames of 720 tokens"
    assert FrameSize(1).counted(1) == "1 frame of 1 token"
    assert FrameSize(8, 4).noun == "group of 4 frames"


def test_a_budget_that_never_bound_is_said(lab: Lab) -> None:
    run = StreamSession(lab, "fifo(budget_tokens=4096)")
    assert run.budget_notes == ()
    run.feed(noise(2, 0))
    seen = run.stream.tokens_seen
    (note,) = run.budget_notes
    assert note.startswith(
        f"The budget of 4096 tokens per layer was never exceeded: all {seen} tokens that came in fit"
    )
    run.set_policy("fifo(budget_tokens=60)")
    while not run.feed(noise(2, run.stream.step)).decisions:
        pass
    assert run.budget_notes == ()
    assert run.fork().budget_notes == ()


def test_what_has_another_limit_is_not_said_to_have_kept_everything(lab: Lab) -> None:
    run = StreamSession(lab, "streaming_vlm(budget_tokens=4096, window_s=2.0)")
    for step in range(4):
        run.feed(noise(2, step))
    (note,) = run.budget_notes
    assert note.endswith("was never exceeded; what was evicted went for other reasons.")
    free = StreamSession(lab, "recent_frames(frames=2)")
    free.feed(noise(2, 0))
    assert free.budget_notes == ()


# --- parts -----------------------------------------------------------------------------------------
def test_parts_that_keep_everything_on_purpose_still_do(lab: Lab) -> None:
    for spec in ("instant(inner=full)", "prefiltered(inner=full, gate=every_nth)"):
        run = StreamSession(lab, spec)
        assert run.feed(noise(4, 0)).notes == ()
        assert run.policy.budgets(lab.layers) is None
    run = StreamSession(lab, "banded(shallow=fifo, middle=full, deep=recent_frames)")
    run.feed(noise(4, 0))
    shallow, *_, deep = run.policy.budgets(lab.layers) or []
    assert (shallow, deep) in ((expected_budget(run), UNBOUNDED), (UNBOUNDED, UNBOUNDED))


def test_a_part_with_a_budget_keeps_it(lab: Lab) -> None:
    run = StreamSession(lab, 'layered(parts=("fifo(budget_tokens=60)", "h2o", "full", "tova"))')
    (note,) = run.feed(noise(4, 0)).notes
    wanted = expected_budget(run)
    assert note.startswith("A part of layered has no budget: 32 frames of")
    assert run.policy.budgets(lab.layers) == [60, wanted, UNBOUNDED, wanted]


def test_stages_that_would_never_be_asked_are_refused(lab: Lab) -> None:
    run = StreamSession(lab, 'composed(parts=("uniform(budget_tokens=90)", "full"))')
    with pytest.raises(PolicyError, match="no stage would ever decide"):
        run.feed(noise(2, 0))


def test_a_default_that_a_policy_cannot_take_is_explained(lab: Lab) -> None:
    run = StreamSession(lab, "sink_recent(sink_tokens=5000)")
    with pytest.raises(PolicyError, match=r"has no budget and cannot take the default of \d+"):
        run.feed(noise(2, 0))
