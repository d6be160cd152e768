"""Nobody disturbs anybody: questions and the stream, sessions on one model, threads, forks, replays."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hermes_lab import StreamSession, lens
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab
from hermes_lab.policies.base import ReadPlan, RecallView
from tests.reference.closeness import assert_moved
from tests.reference.streams import QUESTION, by_head, by_layer, noise, same_everywhere, scripted

pytestmark = pytest.mark.upstream

Model = tuple[Lab, Path]


def recall_every_other(self: Any, question: RecallView) -> Tensor:
    return torch.arange(0, question.view.tokens, 2)[None]


POLICIES: dict[str, Any] = {
    "full": "full",
    "hermes": "hermes(budget_tokens=60)",
    "per head": scripted(by_head, per_head=True),
    "archive and recall": scripted(
        by_layer, archives=True, recalls=True, recall=recall_every_other
    ),
    "recent frames": "recent_frames(frames=2)",
    "recall beside recent frames": scripted(
        same_everywhere,
        archives=True,
        recalls=True,
        recall=recall_every_other,
        read_plan=lambda self: ReadPlan(recent_frames=2, replaces=True),
    ),
}


def frozen(session: StreamSession) -> list[Any]:
    """Everything that a question might touch, copied."""
    stream = session.stream
    out: list[Any] = [len(stream.table), stream.step, stream.now_s, stream.tokens_seen]
    for state in stream.cache.states:
        assert state.keys is not None and state.values is not None
        out += [
            state.keys.clone(), state.values.clone(), state.ids.clone(), state.positions.clone(),
            state.cursor, {n: v.clone() for n, v in state.carried.items()}, len(state.archive),
        ]  # fmt: skip
    return out


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def started(lab: Lab, policy: Any, chunks: int = 3, **options: Any) -> StreamSession:
    session = StreamSession(lab, policy, **options)
    for seed in range(chunks):
        session.feed(noise(2, seed))
    return session


@pytest.mark.parametrize("name", POLICIES)
def test_a_question_leaves_everything_bit_identical(model: Model, name: str) -> None:
    session = started(model[0], POLICIES[name])
    before = frozen(session)
    first = session.ask(QUESTION, max_new_tokens=4, attention=True)
    assert same(frozen(session), before)
    again = session.ask(QUESTION, max_new_tokens=4)
    assert again.token_ids == first.token_ids
    assert np.array_equal(again.first_logits, first.first_logits)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("midway")

    for hook in ("blocks.2.hook_resid_pre", "blocks.1.attn.hook_pattern", "blocks.3.hook_mlp_out"):
        with session.hooks([(hook, fail)]), pytest.raises(RuntimeError, match="midway"):
            session.ask(QUESTION)
        assert same(frozen(session), before)
    with pytest.raises(RuntimeError, match="midway"):
        session.ask(QUESTION, on_token=fail)
    assert same(frozen(session), before)
    assert np.array_equal(session.ask(QUESTION, max_new_tokens=1).first_logits, first.first_logits)


def test_an_abandoned_answer_leaves_no_trace_and_a_slow_one_reads_a_frozen_memory(
    model: Model,
) -> None:
    session = started(model[0], "fifo(budget_tokens=60)")
    before = frozen(session)
    whole = list(session.stream_answer(QUESTION, max_new_tokens=6))
    answer = session.stream_answer(QUESTION, max_new_tokens=6)
    next(answer)
    assert same(frozen(session), before)
    answer.close()
    assert same(frozen(session), before)

    slow = session.stream_answer(QUESTION, max_new_tokens=6)
    texts = [next(slow)]
    snapshot = session.feed(noise(2, 9))
    during = frozen(session)
    session.ask("Something else?", max_new_tokens=2)
    texts += list(slow)
    assert texts == whole
    assert same(frozen(session), during)
    assert snapshot.frames_seen == session.stream.frames_seen


def test_two_interleaved_sessions_do_not_see_each_other(model: Model) -> None:
    lab = model[0]
    policies = ["fifo(budget_tokens=60)", scripted(by_head, per_head=True)]
    alone = []
    for number, policy in enumerate(policies):
        session = StreamSession(lab, policy, positions="eager")
        logits = []
        for step in range(3):
            session.feed(noise(2, 10 * number + step))
            logits.append(session.question_logits(QUESTION))
        alone.append(logits)
    assert_moved(alone[0][-1], alone[1][-1])

    sessions = [StreamSession(lab, policy, positions="eager") for policy in policies]
    answers = []
    for step in range(3):
        for number, session in enumerate(sessions):
            session.feed(noise(2, 10 * number + step))
        answers.append([session.question_logits(QUESTION) for session in sessions])
    for step in range(3):
        for number in range(2):
            assert torch.equal(answers[step][number], alone[number][step])


def test_hooks_and_knockouts_belong_to_one_session(model: Model) -> None:
    one, other = started(model[0], "full"), started(model[0], "full")
    expected = other.question_logits(QUESTION)
    edit = ("blocks.1.attn.hook_z", lambda z, hook: torch.zeros_like(z))
    with one.hooks([edit]), lens.knockout(one, lens.tokens(one, frames=[0, 1])):
        assert torch.equal(other.question_logits(QUESTION), expected)
        assert_moved(one.question_logits(QUESTION), expected)
    assert torch.equal(one.question_logits(QUESTION), expected)


def test_threads_that_share_a_model_do_not_see_each_other(model: Model) -> None:
    lab = model[0]

    def work(number: int) -> list[Tensor]:
        session = StreamSession(lab, scripted(by_layer), positions="eager", seed=number)
        found = []
        for step in range(4):
            session.feed(noise(2, 100 * number + step))
            with session.hooks([(f"blocks.{number}.hook_mlp_out", lambda x, hook: 1.01 * x)]):
                found.append(session.question_logits(QUESTION))
        return found

    expected = [work(0), work(1)]
    results: dict[int, list[Tensor]] = {}
    gate = threading.Barrier(2)

    def run(number: int) -> None:
        gate.wait()
        results[number] = work(number)

    for _ in range(2):
        results.clear()
        threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for number in range(2):
            assert len(results[number]) == 4
            for actual, wanted in zip(results[number], expected[number], strict=True):
                assert torch.equal(actual, wanted)


@pytest.mark.parametrize("name", POLICIES)
def test_a_fork_diverges_without_touching_its_parent(model: Model, name: str) -> None:
    parent = started(model[0], POLICIES[name])
    before, logits = frozen(parent), parent.question_logits(QUESTION)
    child = parent.fork()
    assert torch.equal(child.question_logits(QUESTION), logits)
    child.feed(noise(4, 50))
    child.stream.memory["mark"] = True
    other = parent.fork("fifo(budget_tokens=50)")
    other.feed(noise(4, 50))
    assert max(held.shape[1] for held in other.snapshot.held) <= 50  # type: ignore[union-attr]
    assert_moved(child.question_logits(QUESTION), logits)
    assert same(frozen(parent), before)
    assert "mark" not in parent.stream.memory
    assert torch.equal(parent.question_logits(QUESTION), logits)
    snapshot = parent.feed(noise(4, 51))
    assert snapshot.new_ids[0] == before[0]  # the parent's ids go on where they were


def test_replay_repeats_the_run(model: Model) -> None:
    policy = scripted(by_layer)
    first = started(model[0], policy, positions="eager", keep_visual=True)
    seen: list[int] = []
    again = first.replay(
        policy, positions="eager", on_step=lambda session, snapshot: seen.append(snapshot.step)
    )
    assert seen == [0, 1, 2]
    assert same(frozen(again), frozen(first))
    assert torch.equal(again.question_logits(QUESTION), first.question_logits(QUESTION))
    other = first.replay("fifo(budget_tokens=50)")
    direct = started(model[0], "fifo(budget_tokens=50)")
    assert torch.equal(other.question_logits(QUESTION), direct.question_logits(QUESTION))
    with pytest.raises(LabError, match="keep_visual=True"):
        direct.replay("full")


def test_replay_of_what_admission_dropped_feeds_it_again(model: Model) -> None:
    from tests.reference.streams import admit_even

    thin = started(model[0], scripted(same_everywhere, admit=admit_even), keep_visual=True)
    whole = thin.replay("full")
    direct = started(model[0], "full")
    assert torch.equal(whole.question_logits(QUESTION), direct.question_logits(QUESTION))
    assert_moved(thin.question_logits(QUESTION), direct.question_logits(QUESTION))


def test_questions_that_cannot_be_asked(model: Model) -> None:
    session = StreamSession(model[0])
    with pytest.raises(LabError, match="No frame was fed"):
        session.ask(QUESTION)
    session.feed(noise(2, 0))
    with pytest.raises(LabError, match="question is empty"):
        session.ask("  ")
    with pytest.raises(LabError, match="max_new_tokens=0"):
        session.ask(QUESTION, max_new_tokens=0)


def test_sessions_that_cannot_be_started(model: Model) -> None:
    wrong: Any = "somewhere"
    with pytest.raises(LabError, match="last_kept"):
        StreamSession(model[0], next_position=wrong)
    with pytest.raises(LabError, match="record_rows"):
        StreamSession(model[0], record_level="rows", record_rows=[99])
    with pytest.raises(LabError, match="chunk_frames=0"):
        StreamSession(model[0], chunk_frames=0)


@pytest.mark.parametrize("seed", [-3, 2**70])
def test_any_whole_number_is_a_seed(model: Model, seed: int) -> None:
    kept = []
    for _ in range(2):
        session = StreamSession(model[0], "random(budget_tokens=60)", seed=seed)
        for step in range(2):
            session.feed(noise(2, step))
        kept.append(session.layer_ids(0))
    assert torch.equal(*kept)
