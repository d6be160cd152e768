"""A policy that breaks its contract gets one sentence, and the session goes on as if it had not been asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hermes_lab import StreamSession
from hermes_lab.errors import LabError, PolicyError
from hermes_lab.lab import Lab
from hermes_lab.policies.base import Admission, Guidance, Merged, Need, Scores
from tests.integration.test_session_isolation import frozen, same
from tests.reference.streams import QUESTION, noise, same_everywhere, scripted


def boom(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("by zero")


def merging(**changes: Any) -> dict[str, Any]:
    """A merge step that makes one token, with some of its parts replaced."""

    def merge(self: Any, view: Any, kept: Any, scores: Any) -> Merged:
        good = Merged(
            keys=view.keys[:, :1],
            values=view.values[:, :1],
            positions=view.positions[0, :, :1],
            sources=(view.ids[0, :1],),
        )
        return replace(good, **{name: change(view) for name, change in changes.items()})

    return {"merge": merge, "needs": frozenset({Need.KEYS, Need.VALUES}), "reserve": lambda *_: 1}


def many(view: Any) -> torch.Tensor:
    return torch.arange(view.tokens)[None, :-1]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "score raises": ({"score": boom}, r"failed in score\(\) at layer 0: ZeroDivisionError"),
    "score is NaN": (
        {"score": lambda self, view: torch.full((1, view.tokens), torch.nan)},
        r"NaN from score\(\) at layer 0",
    ),
    "score has a wrong shape": (
        {"score": lambda self, view: torch.zeros(1, view.tokens + 1)}, r"of shape \[1, \d+\] from score",
    ),
    "score has no head axis": (
        {"score": lambda self, view: torch.zeros(view.tokens)}, r"of shape \[\d+\] from score",
    ),
    "score is not a tensor": ({"score": lambda self, view: [1.0] * view.tokens}, r"list from score\(\)"),
    "score is nothing": ({"score": lambda self, view: None}, r"NoneType from score\(\)"),
    "a term has a wrong shape": (
        {"score": lambda self, view: Scores(torch.zeros(1, view.tokens), {"age": torch.zeros(3)})},
        r"'age' of shape \[3\]",
    ),
    "mix raises": ({"mix": boom}, r"failed in mix\(\)"),
    "mix loses a layer": ({"mix": lambda self, scores, views: scores[1:]}, r"3 scores from mix\(\) for 4"),
    "score is NaN in one layer": (
        {"score": lambda self, view: torch.full((1, view.tokens), torch.nan if view.layer == 1 else 0.0)},
        r"NaN from score\(\) at layer 1",
    ),
    "mix makes NaN": (
        {"mix": lambda self, scores, views: [Scores(s.total / 0) for s in scores]}, r"NaN from mix\(\)",
    ),
    "mix forgets what it was given": ({"mix": lambda self, scores, views: None}, r"mix\(\)"),
    "budgets grow": (
        {"adapt_budgets": lambda self, budgets, scores, views: [b + 1 for b in budgets]}, "adapt_budgets",
    ),
    "budgets are words": (
        {"adapt_budgets": lambda self, budgets, scores, views: ["many"] * len(budgets)}, "adapt_budgets",
    ),
    "budgets raise": ({"adapt_budgets": boom}, r"failed in adapt_budgets\(\)"),
    "reserve raises": ({"reserve": boom, "budgets": lambda self, layers: [30] * layers}, r"failed in reserve\(\)"),
    "due raises": ({"due": boom}, r"failed in due\(\)"),
    "select raises": ({"select": boom}, r"failed in select\(\) at layer 0"),
    "select is out of range": (
        {"select": lambda self, s, n, view: torch.tensor([[0, view.tokens]])}, "must be ascending, between 0 and",
    ),
    "select is negative": ({"select": lambda self, s, n, view: torch.tensor([[-1, 2]])}, "must be ascending"),
    "select is not sorted": ({"select": lambda self, s, n, view: torch.tensor([[3, 2]])}, "must be ascending"),
    "select repeats": ({"select": lambda self, s, n, view: torch.tensor([[2, 2]])}, "must be ascending"),
    "select is floating": ({"select": lambda self, s, n, view: torch.zeros(1, 2)}, "must be ascending"),
    "select is a mask": (
        {"select": lambda self, s, n, view: torch.ones(1, view.tokens, dtype=torch.bool)}, "must be ascending",
    ),
    "select has too many heads": (
        {"select": lambda self, s, n, view: torch.arange(4).expand(3, -1)}, "must be ascending",
    ),
    "select is a list": ({"select": lambda self, s, n, view: [0, 1]}, r"list from select\(\)"),
    "select keeps too many": (
        {"select": lambda self, s, n, view: many(view), "budgets": lambda self, layers: [30] * layers},
        "at most 30",
    ),
    "merge raises": ({**merging(), "merge": boom}, r"failed in merge\(\) at layer 0"),
    "merge is NaN": (merging(keys=lambda v: v.keys[:, :1] * torch.nan), r"NaN from merge\(\)"),
    "merge has unequal shapes": (merging(values=lambda v: v.values[:, :2]), r"unequal shapes from merge"),
    "merge has a wrong width": (merging(keys=lambda v: v.keys[:, :1, :3]), r"merge\(\)"),
    "merge has wrong axes": (merging(positions=lambda v: v.positions[0, :, :1].repeat(2, 1)), r"merge\(\)"),
    "merge takes no room": (
        {**merging(), "reserve": lambda *_: 0, "budgets": lambda self, layers: [30] * layers,
         "select": lambda self, s, n, view: torch.arange(n)[None]}, "leaves room for 0",
    ),
    "merge is not Merged": ({**merging(), "merge": lambda *_: 3}, r"merge\(\)"),
    "observe raises": ({"observe": boom}, r"failed in observe\(\) at layer 0"),
    "observe has a wrong shape": ({"observe": lambda self, view: {"n": torch.zeros(1, 2)}}, "'n' of shape"),
    "observe is not a tensor": ({"observe": lambda self, view: {"n": 3}}, r"observe\(\)"),
    "codec raises": ({"codec": boom, "archives": True}, r"failed in codec\(\) at layer 0"),
    "guidance raises": ({"guidance": boom, "needs": frozenset({Need.GUIDANCE})}, r"failed in guidance\(\)"),
    "guidance wants the future": (
        {"guidance": lambda self, history: (Guidance("q", kind="question"),), "needs": frozenset({Need.GUIDANCE})},
        "needs the future question",
    ),
    "admit raises": ({"admit": boom}, r"failed in admit\(\)"),
    "admit is not sorted": ({"admit": lambda self, a, m: Admission(torch.tensor([3, 1]))}, "not ascending"),
    "admit is out of range": ({"admit": lambda self, a, m: Admission(torch.tensor([10**6]))}, "not ascending"),
    "admit has NaN embeddings": (
        {"admit": lambda self, a, m: Admission(torch.arange(4), embeds=a.embeds[:4] * torch.nan)}, "NaN",
    ),
    "admit has terms of a wrong length": (
        {"admit": lambda self, a, m: Admission(torch.arange(4), terms={"t": torch.zeros(3)})}, "'t'",
    ),
    "admit is a list": ({"admit": lambda self, a, m: [0, 1]}, r"admit\(\)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Lab:
    labs: Callable[[str], tuple[Lab, Path]] = request.getfixturevalue("labs")
    return labs("llava_onevision")[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_policy_is_refused_in_one_sentence_and_the_step_undone(
    lab: Lab, fault: str
) -> None:
    check_refused(lab, *FAULTS[fault])


def check_refused(lab: Lab, methods: dict[str, Any], sentence: str) -> None:
    """A step under a policy with those methods is refused in a sentence, undone, and then taken by a good policy."""
    session = StreamSession(lab, scripted(same_everywhere), positions="eager")
    session.feed(noise(4, 0))
    session.feed(noise(4, 1))
    before, logits = frozen(session), session.question_logits(QUESTION)
    step, snapshot = session.stream.step, session.snapshot
    memory = dict(session.stream.memory)

    def try_it() -> None:
        session.set_policy(scripted(same_everywhere, **methods), "eager")
        session.feed(noise(4, 2))

    with pytest.raises(PolicyError, match=sentence) as caught:
        try_it()
    assert "scripted" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(frozen(session), before)
    assert session.stream.step == step
    assert session.snapshot is snapshot
    assert session.stream.memory == memory
    assert torch.equal(session.question_logits(QUESTION), logits)

    session.set_policy(scripted(same_everywhere), "eager")
    after = session.feed(noise(4, 2))
    untroubled = StreamSession(lab, scripted(same_everywhere), positions="eager")
    for seed in range(3):
        expected = untroubled.feed(noise(4, seed))
    assert all((a == b).all() for a, b in zip(after.held, expected.held, strict=True))
    assert torch.equal(session.question_logits(QUESTION), untroubled.question_logits(QUESTION))


RECALL_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "raises": ({"recall": boom}, r"failed in recall\(\) at layer 0"),
    "out of range": (
        {"recall": lambda self, q: torch.tensor([[q.view.tokens]])},
        "ascending, between 0 and",
    ),
    "negative": ({"recall": lambda self, q: torch.tensor([[-1]])}, "ascending, between 0 and"),
    "twice the same": ({"recall": lambda self, q: torch.tensor([[1, 1]])}, "recall"),
    "not sorted": ({"recall": lambda self, q: torch.tensor([[2, 1]])}, "recall"),
    "no head axis": ({"recall": lambda self, q: torch.tensor([1, 2])}, "recall"),
    "floating": ({"recall": lambda self, q: torch.zeros(1, 1)}, "recall"),
    "a list": ({"recall": lambda self, q: [0]}, "recall"),
    "plan raises": ({"read_plan": boom}, r"failed in read_plan\(\)"),
    "plan is nothing": ({"read_plan": lambda self: None}, "read_plan"),
}


@pytest.mark.parametrize("fault", RECALL_FAULTS)
def test_a_policy_that_fails_at_the_question_leaves_the_session_usable(
    lab: Lab, fault: str
) -> None:
    methods, sentence = RECALL_FAULTS[fault]
    good = scripted(same_everywhere, archives=True, recalls=True, recall=lambda self, q: None)
    session = StreamSession(lab, good)
    session.feed(noise(4, 0))
    before, logits = frozen(session), session.question_logits(QUESTION)
    session.set_policy(scripted(same_everywhere, archives=True, recalls=True, **methods))
    with pytest.raises(PolicyError, match=sentence):
        session.ask(QUESTION)
    assert same(frozen(session), before)
    session.set_policy(good)
    assert torch.equal(session.question_logits(QUESTION), logits)
    assert session.ask(QUESTION, max_new_tokens=2).token_ids


def test_impossible_budgets_and_rules(lab: Lab) -> None:
    with pytest.raises(PolicyError, match="at least"):
        StreamSession(lab, "fifo(budget_tokens=0)")
    with pytest.raises(PolicyError, match="smaller than the protected prefix of 6 tokens"):
        StreamSession(lab, "fifo(budget_tokens=5)")
    with pytest.raises(PolicyError, match="gives 2 budgets, but the model has 4 layers"):
        StreamSession(lab, scripted(same_everywhere, budgets=lambda self, layers: [30, 30]))
    with pytest.raises(PolicyError, match="budgets"):
        StreamSession(lab, scripted(same_everywhere, budgets=boom))
    with pytest.raises(PolicyError, match=r"did you mean 'eager'\?"):
        StreamSession(lab, positions="eagre")
    with pytest.raises(LabError, match="chunk_frames=0"):
        StreamSession(lab, chunk_frames=0)
    with pytest.raises(PolicyError, match="upper bound"):
        StreamSession(lab, scripted(same_everywhere, evaluation_only=True))
