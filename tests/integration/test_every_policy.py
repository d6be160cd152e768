"""Every policy, and ways to compose them, on real sessions: ten compressions, questions, forks, both rotary kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hermes_lab import StreamSession, policies
from hermes_lab.lab import Lab
from hermes_lab.policies import registry
from hermes_lab.policies.base import UNBOUNDED, Policy, ReadPlan
from hermes_lab.snapshot import Snapshot
from hermes_lab.tokens import Role
from tests.integration.test_session_isolation import frozen, same
from tests.reference.streams import QUESTION, noise

Labs = Callable[[str], tuple[Lab, Path]]

# 1-D positions; M-RoPE in one span; M-RoPE with time markers between frames and DeepStack.
FAMILIES = ("llava_onevision", "qwen2_5_vl", "qwen3_vl")
FIELDS = {  # what makes a policy decide within a short stream of small frames
    "snapkv": "window_tokens=6, ",
    "pyramidkv": "window_tokens=6, beta=1.2, ",
    "lagkv": "sink_tokens=2, lag_tokens=6, ",
    "streammem": "clip_frames=2, ",
    "livevlm": "page_tokens=4, ",
    "streamkv": "recall_frames=3, shortest_frames=1, ",
    "streaming_vlm": "window_s=4.0, ",
    "streamingtom": "frame_tokens=3, recall_tokens=12, ",
    "curvestream": "frames=4, ",
    "rekv": "recall_frames=3, ",
    "dscache": "context_frames=3, recent_frames=2, stride=2, ",
}
COMPOSED = [
    "instant(inner=hermes, recent_frames=2)",
    "instant(inner=infinipot_v, recent_frames=2)",
    "with_budget(inner=h2o, weights=(1, 2, 3))",
    "with_summary(inner=snapkv(window_tokens=4), layers=all)",
    "with_summary(inner=fifo, layers=all)",
    "with_positions(inner=keydiff, rule=eager)",
    "shared_heads(inner=lagkv(lag_tokens=6))",
    "prefiltered(inner=hermes, gate=every_nth)",
    "prefiltered(inner=rekv(recall_frames=2), gate=fluxmem)",
    "banded(shallow=fifo, middle=h2o, deep=hermes)",
    "banded(shallow=mukv, middle=streamkv, deep=with_summary(inner=knorm))",
    "banded(shallow=fifo, middle=rekv(recall_frames=2), deep=infinipot_v)",
    'layered(parts=("fifo", "h2o", "streammem(clip_frames=2)", "tova"))',
    'composed(parts=("knorm(budget_tokens=90)", "h2o"))',
    'composed(parts=("uniform(budget_tokens=90)", "hermes"))',
]
SINGLE = [
    f"{name}({FIELDS.get(name, '')})"
    for name in registry.BUILTIN
    if name != "full" and not any(f.required for f in policies.info(name).fields)
]
SPECS = [*SINGLE, *COMPOSED]
GATED = ("every_nth", "merge_similar", "fluxmem", "streamingtom", "curvestream", "prefiltered")
BUDGET = 60


def policy_for(spec: str, budget: int = BUDGET) -> Policy:
    return policies.get(spec.replace(", )", ")"), budget_tokens=budget)


def started(lab: Lab, policy: Policy) -> StreamSession:
    session = StreamSession(lab, policy, evaluation=True)
    session.future_question = QUESTION
    return session


def alike(one: StreamSession, two: StreamSession) -> bool:
    """Whether two sessions hold bit-identical memories (NaN, for state that a token has not, equals NaN)."""

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.nan_to_num(12345.0) if value.is_floating_point() else value
        return {n: plain(v) for n, v in value.items()} if isinstance(value, dict) else value

    return same([plain(v) for v in frozen(one)], [plain(v) for v in frozen(two)])


def chunk(family: str, seed: int, frames: int) -> np.ndarray:
    """Frames of noise that become about as many tokens in each family: Qwen merges pairs of frames."""
    return noise(frames if family == "llava_onevision" else 3 * frames, seed)


@pytest.mark.parametrize("family", FAMILIES[:2])
@pytest.mark.parametrize("spec", SPECS)
def test_a_long_stream(labs: Labs, family: str, spec: str) -> None:
    """Budgets hold over ten compressions, reasons are recorded, forks go their own way, questions change nothing."""
    lab, _ = labs(family)
    policy = policy_for(spec)
    session = started(lab, policy)
    budgets = policy.budgets(lab.engine.layers) or []
    compressed = 0
    fork: StreamSession | None = None
    frames = 6 if spec.startswith(GATED) else 2
    for step in range(80):
        images = chunk(family, step, frames)
        snapshot = session.feed(images)
        check(session, snapshot, budgets)
        compressed += bool(snapshot.decisions)
        if fork is not None:
            fork.feed(images)
            if snapshot.decisions:
                assert alike(fork, session), "the same frames, the same memory"
                twin = fork.fork()
                fork.feed(chunk(family, 999, frames))
                assert alike(twin, session), "a fork is nothing to its origin"
                fork = None
        elif compressed == 7 and snapshot.decisions:
            fork = session.fork()
        if compressed == 10:
            break
    assert compressed == 10
    twin = session.fork()
    answer = session.ask(QUESTION, max_new_tokens=2)
    assert alike(twin, session), "a question is nothing to the stream"
    assert np.isfinite(answer.first_logits).all()


def check(session: StreamSession, snapshot: Snapshot, budgets: list[int]) -> None:
    """What must hold after every chunk: reasons, head axes, budgets, protection, order."""
    role = session.stream.table.column("role")
    for decision in snapshot.decisions:
        assert decision.terms, "a decision must say its reasons"
        assert np.isfinite(decision.scores).all()
        assert decision.kept.shape[0] == (2 if session.policy.per_head else 1)
    if snapshot.decisions and max(budgets) < UNBOUNDED:
        assert sum(ids.shape[1] for ids in snapshot.held) <= sum(budgets)
    prefix = torch.arange(session.protected_tokens)
    for layer in range(session.engine.layers):
        kept = session.layer_ids(layer)[:, : len(prefix)].cpu()
        assert (kept == prefix).all(), "the system prefix is protected"
    for ids, positions in zip(snapshot.held, snapshot.positions, strict=True):
        for head in range(len(ids)):
            own = role[ids[head]] != Role.SUMMARY
            assert (np.diff(ids[head][own]) > 0).all(), "temporal order"
            place = positions[min(head, len(positions) - 1), 0]
            assert (np.diff(place[own]) >= 0).all(), "positions in temporal order"


def unlimited(spec: str) -> bool:
    """Whether a large budget is all that a policy needs to keep everything and read it once."""
    limits = ("streaming_vlm", "dscache", "curvestream", "recent_frames", "composed")
    if spec.startswith((*limits, *GATED)):
        return False
    policy = policy_for(spec, budget=5000)
    return policy.read_plan() == ReadPlan() and not policy.recalls


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", [spec for spec in SPECS if unlimited(spec)])
def test_keeping_everything_is_no_policy(labs: Labs, family: str, spec: str) -> None:
    """With room for the whole stream a policy answers exactly as `full` does."""
    lab, _ = labs(family)
    session, full = (
        started(lab, policy_for(spec, budget=5000)),
        started(lab, policies.get("full")),
    )
    for step in range(2):
        session.feed(noise(2, step))
        full.feed(noise(2, step))
    answer, reference = (s.ask(QUESTION, max_new_tokens=1) for s in (session, full))
    np.testing.assert_array_equal(answer.first_logits, reference.first_logits)


@pytest.mark.parametrize("family", FAMILIES[:2])
def test_rekv_reads_what_has_left_its_window(labs: Labs, family: str) -> None:
    """With a retrieval as large as the stream, every layer of a question attends to all that was ever seen."""
    lab, _ = labs(family)
    session = started(lab, policies.get("rekv", budget_tokens=BUDGET, recall_frames=100))
    full = started(lab, policies.get("full"))
    for step in range(6):
        session.feed(chunk(family, step, 6))
        full.feed(chunk(family, step, 6))
    assert session.snapshot.archive_bytes > 0
    answer, reference = (
        session.ask(QUESTION, max_new_tokens=1),
        full.ask(QUESTION, max_new_tokens=1),
    )
    assert answer.attended_tokens == reference.attended_tokens


def test_streamingtom_stores_in_four_bits(labs: Labs) -> None:
    lab, _ = labs("llava_onevision")
    exact = started(lab, policies.get("rekv", budget_tokens=40))
    packed = started(
        lab,
        policies.get("prefiltered", inner="streamingtom(budget_tokens=40, dynamic_by=norm, frame_tokens=100)", gate="every_nth(stride=1)"),
    )  # fmt: skip
    for step in range(6):
        exact.feed(noise(2, step))
        packed.feed(noise(2, step))
    assert 0 < packed.snapshot.archive_bytes < exact.snapshot.archive_bytes


def test_instant_frames_replace_their_cached_versions(labs: Labs) -> None:
    """The question sees as many tokens as without the instant cache: the last frames once, not twice."""
    lab, _ = labs("llava_onevision")
    counts: dict[str, tuple[int, ...]] = {}
    for spec in ("fifo", "instant(inner=fifo, recent_frames=2)", "instant(inner=fifo, recent_frames=2, replaces=False)"):  # fmt: skip
        session = started(lab, policies.get(spec, budget_tokens=BUDGET))
        for step in range(6):
            snapshot = session.feed(noise(2, step))
        counts[spec] = session.ask(QUESTION, max_new_tokens=1).attended_tokens
        two_frames = int(np.isin(snapshot.held[0], snapshot.new_ids).sum())
    plain, hidden, twice = counts.values()
    assert hidden == plain
    assert all(t == p + two_frames for t, p in zip(twice, plain, strict=True))
