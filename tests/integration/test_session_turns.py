"""A session has one owner at a time: threads wait for each other, and nobody calls a session from inside itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hermes_lab import StreamSession, lens
from hermes_lab.engine.passes import Wants
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab
from hermes_lab.policies.base import RecallView
from hermes_lab.recording import Recording
from tests.reference.streams import QUESTION, by_head, by_layer, noise, same_everywhere, scripted

FAMILY = "qwen2_5_vl"
CHUNKS = 6
Labs = Callable[[str], tuple[Lab, Path]]


def recall_some(self: Any, question: RecallView) -> torch.Tensor:
    return torch.arange(0, question.view.tokens, 2)[None]


POLICIES: dict[str, Callable[[], Any]] = {
    "fifo": lambda: "fifo(budget_tokens=60)",
    "a set for each head": lambda: scripted(by_head, per_head=True),
    "recall": lambda: scripted(by_layer, archives=True, recalls=True, recall=recall_some),
}


@pytest.fixture
def lab(labs: Labs) -> Lab:
    return labs(FAMILY)[0]


def together(*works: Callable[[], None]) -> None:
    """Run some functions in threads of their own, at once; what one of them raises is raised here."""
    raised: list[BaseException] = []
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], None]) -> None:
        gate.wait()
        try:
            work()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    if raised:
        raise raised[0]


@pytest.mark.parametrize("name", POLICIES)
def test_questions_while_another_thread_feeds_see_whole_steps_and_are_recorded(
    lab: Lab, tmp_path: Path, name: str
) -> None:
    alone = StreamSession(lab, POLICIES[name]())
    expected: dict[int, Any] = {}
    for seed in range(CHUNKS):
        alone.feed(noise(2, seed))
        expected[alone.stream.step] = alone.ask(QUESTION, max_new_tokens=2)

    session = StreamSession(lab, POLICIES[name](), record=tmp_path / "run")
    session.feed(noise(2, 0))
    answers: list[Any] = []
    forks: list[StreamSession] = []
    fed = threading.Event()

    def feed() -> None:
        for seed in range(1, CHUNKS):
            session.feed(noise(2, seed))
        fed.set()

    def ask() -> None:
        while not fed.is_set():
            answers.append(session.ask(QUESTION, max_new_tokens=2))

    def look() -> None:
        while not fed.is_set():
            forks.append(session.fork())
            session.question_logits(QUESTION)

    together(feed, ask, look)
    session.close()
    answers.append(session.ask(QUESTION, max_new_tokens=2))
    for answer in answers:
        assert answer.token_ids == expected[answer.step].token_ids
        assert np.array_equal(answer.first_logits, expected[answer.step].first_logits)
    for fork in forks[:4]:
        found = fork.ask(QUESTION, max_new_tokens=1)
        assert np.array_equal(found.first_logits, expected[found.step].first_logits)
    recording = Recording.open(tmp_path / "run")
    assert recording.problems == () and recording.verify() == []
    assert [step.step for step in recording.steps] == list(range(CHUNKS))
    assert len(recording.answers) == len(answers) - 1


def test_two_threads_that_feed_one_session_lose_no_frame(lab: Lab) -> None:
    session = StreamSession(lab, "hermes(budget_tokens=60)")

    def feed() -> None:
        for seed in range(4):
            session.feed(noise(2, seed))
            session.set_policy(f"hermes(budget_tokens={60 + seed})")

    together(feed, feed, feed)
    assert session.stream.frames_seen == 24
    assert session.stream.step == 12
    snapshot = session.snapshot
    assert snapshot is not None and snapshot.frames_seen == 24


def test_activations_are_those_of_the_own_question(lab: Lab) -> None:
    session = StreamSession(lab, "full")
    session.feed(noise(2, 0))
    other = "Something else that is longer than the first?"
    name = "blocks.1.hook_resid_post"
    wanted = session.run_with_cache(QUESTION, name)[1][name]
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            session.ask(other, max_new_tokens=1)

    def look() -> None:
        try:
            for _ in range(8):
                assert torch.equal(session.run_with_cache(QUESTION, name)[1][name], wanted)
        finally:
            done.set()

    together(ask, look)


def test_a_slow_answer_leaves_the_session_free_between_tokens(lab: Lab) -> None:
    session = StreamSession(lab, "fifo(budget_tokens=60)")
    session.feed(noise(2, 0))
    whole = list(session.stream_answer(QUESTION, max_new_tokens=4))
    slow = session.stream_answer(QUESTION, max_new_tokens=4)
    texts = [next(slow)]
    together(lambda: (session.feed(noise(2, 1)), None)[1])  # would wait for ever if it were held
    texts += list(slow)
    assert texts == whole


def test_a_block_that_is_alone_keeps_others_waiting(lab: Lab) -> None:
    session = StreamSession(lab, "full")
    session.feed(noise(2, 0))
    with session.alone():
        thread = threading.Thread(target=lambda: session.feed(noise(2, 1)), daemon=True)
        thread.start()
        steps = [session.ask(QUESTION, max_new_tokens=2).step for _ in range(5)]
        assert steps == [1] * 5
    thread.join(60)
    assert session.stream.step == 2


# --- from inside ---------------------------------------------------------------------------------
CALLS: dict[str, Callable[[StreamSession], Any]] = {
    "feed": lambda s: s.feed(noise(2, 9)),
    "feed_segment": lambda s: s.feed_segment(s.stream.chunks[0].segment),
    "ask": lambda s: s.ask(QUESTION),
    "stream_answer": lambda s: next(iter(s.stream_answer(QUESTION))),
    "question_logits": lambda s: s.question_logits(QUESTION),
    "prefill_question": lambda s: s.prefill_question(QUESTION, Wants()),
    "reading_stream": lambda s: s.reading_stream(),
    "run_with_cache": lambda s: s.run_with_cache(QUESTION),
    "set_policy": lambda s: s.set_policy("full"),
    "hooks": lambda s: s.hooks([("blocks.0.hook_mlp_out", print)]).__enter__(),
    "fork": lambda s: s.fork(),
    "replay": lambda s: s.replay("full"),
    "close": lambda s: s.close(),
    "logit lens": lambda s: lens.logit_lens(s, QUESTION),
}


def calling(holder: list[StreamSession], call: Callable[[StreamSession], Any], where: str) -> Any:
    """A policy that calls the session of `holder` from one of its methods, once there is one."""

    def first(self: Any, *arguments: Any) -> Any:
        if holder:
            call(holder[0])
        return getattr(super(type(self), self), where)(*arguments)

    return scripted(same_everywhere, **{where: first})


@pytest.mark.parametrize("name", CALLS)
def test_a_policy_that_calls_its_session_is_refused_and_the_step_undone(
    lab: Lab, name: str
) -> None:
    holder: list[StreamSession] = []
    session = StreamSession(lab, calling(holder, CALLS[name], "observe"), keep_visual=True)
    session.feed(noise(2, 0))
    before = session.question_logits(QUESTION)
    holder.append(session)
    with pytest.raises(
        LabError, match=r"session\.\w+\(\) was called from inside the session's own"
    ):
        session.feed(noise(2, 1))
    holder.clear()
    assert session.stream.step == 1
    assert torch.equal(session.question_logits(QUESTION), before)
    session.feed(noise(2, 1))


@pytest.mark.parametrize("name", CALLS)
def test_a_hook_that_calls_its_session_is_refused(lab: Lab, name: str) -> None:
    session = StreamSession(lab, "full", keep_visual=True)
    session.feed(noise(2, 0))
    before = session.question_logits(QUESTION)

    def hook(tensor: torch.Tensor, hook: Any) -> None:
        CALLS[name](session)

    works = (lambda: session.feed(noise(2, 1)), lambda: session.ask(QUESTION))
    for work in works:
        with (
            session.hooks([("blocks.0.hook_resid_pre", hook)]),
            pytest.raises(LabError, match="was called from inside"),
        ):
            work()
    with pytest.raises(LabError, match="was called from inside"):
        session.ask(QUESTION, on_token=lambda text: CALLS[name](session))
    assert torch.equal(session.question_logits(QUESTION), before)
    assert session.board.quiet


def test_a_hook_may_use_other_sessions(lab: Lab) -> None:
    session, other = StreamSession(lab, "full"), StreamSession(lab, "full")
    for one in (session, other):
        one.feed(noise(2, 0))
    fork = session.fork()
    asked: list[str] = []
    session.ask(
        QUESTION,
        max_new_tokens=1,
        on_token=lambda text: asked.extend(
            one.ask(QUESTION, max_new_tokens=1).text for one in (fork, other)
        ),
    )
    assert len(asked) == 2


def test_what_reads_no_step_is_free_inside(lab: Lab) -> None:
    seen: list[Any] = []

    def observe(self: Any, view: Any) -> dict[str, torch.Tensor]:
        if holder:
            session = holder[0]
            seen.append(
                (len(session.table), session.layer_ids(0).shape[1], session.protected_tokens)
            )
        return {}

    holder: list[StreamSession] = []
    session = StreamSession(lab, scripted(by_layer, observe=observe))
    holder.append(session)
    session.feed(noise(2, 0))
    assert seen


@pytest.fixture(autouse=True)
def _quick_switches() -> Iterator[None]:
    """Let threads interrupt each other more often than they would."""
    import sys

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)
