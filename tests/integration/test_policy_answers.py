"""Where a policy's answer is taken: dense tensors of the declared kind, plain values, one sentence for all else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hermes_lab import StreamSession
from hermes_lab.errors import OutOfMemoryError, PolicyError
from hermes_lab.lab import Lab
from hermes_lab.policies.base import (
    Admission,
    Codec,
    Guidance,
    Merged,
    Need,
    Policy,
    ReadPlan,
    Scores,
)
from hermes_lab.policies.combine.composed import Composed
from hermes_lab.policies.combine.prefiltered import Prefiltered
from hermes_lab.policies.combine.several import Banded
from hermes_lab.policies.combine.wrap import WithSummary
from tests.integration.test_session_isolation import frozen, same
from tests.integration.test_session_policy_errors import boom, check_refused, merging
from tests.reference.streams import QUESTION, noise, same_everywhere, scripted


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Lab:
    labs: Callable[[str], tuple[Lab, Path]] = request.getfixturevalue("labs")
    return labs("llava_onevision")[0]


class BrokenList(list[int]):
    """Cannot be iterated over."""

    def __iter__(self) -> Any:
        raise ValueError("broken")


class Uncounted(Codec):
    """Stores as it is, and says in words how much that is."""

    def encode(self, states: Any, group: Any) -> Any:
        return states

    def decode(self, stored: Any) -> Any:
        return stored

    def stored_bytes(self, stored: Any) -> Any:
        return "much"


class Mute(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError


def long_boom(*_: Any) -> Any:
    raise ValueError("x" * 100_000)


def stopped_boom(*_: Any) -> Any:
    raise ValueError("This is wrong.")


def lined_boom(*_: Any) -> Any:
    raise ValueError("first\nsecond")


def mute_boom(*_: Any) -> Any:
    raise Mute


def long_refusal(*_: Any) -> Any:
    raise PolicyError("scripted: " + "x" * 100_000)


def guiding(guidance: Any) -> dict[str, Any]:
    return {"guidance": guidance, "needs": frozenset({Need.GUIDANCE})}


def unsigned(count: int) -> torch.Tensor:
    return torch.arange(count).to(torch.uint16)


class Masked(torch.Tensor):
    """A kind of tensor of its own."""


def as_subclass(make: Any) -> Any:
    return lambda self, view: make(view).as_subclass(Masked)


def moved(device: str) -> Any:
    return lambda make: lambda self, view: make(view).to(device)


def of_type(dtype: torch.dtype) -> Any:
    return lambda make: lambda self, view: make(view).to(dtype)


def nested(make: Any) -> Any:
    return lambda self, view: torch.nested.nested_tensor([make(view)[0]])


ODD: list[tuple[str, Any, str]] = [
    (
        "sparse",
        lambda make: lambda self, view: make(view).to_sparse(),
        r"not dense \(torch\.sparse_coo\)",
    ),
    ("nested", nested, r"not dense \(nested\)"),
    ("on no device", moved("meta"), "which holds no numbers"),
    ("complex", of_type(torch.complex64), r"of type torch\.complex64"),
    ("in eight bits", of_type(torch.float8_e4m3fn), r"of type torch\.float8_e4m3fn"),
    ("a subclass", as_subclass, "a Masked"),
]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    # --- answers that cannot be worked with, or of another kind than the contract names ---
    **{
        f"score is {what}": ({"score": change(lambda v: torch.zeros(1, v.tokens))}, rf"{said} from score\(\)")
        for what, change, said in ODD
    },
    **{
        f"select is {what}": (
            {"select": lambda self, s, n, view, change=change: change(lambda v: torch.arange(2)[None])(self, view)},
            rf"{said} from select\(\)|and type torch\.\w+ from select\(\)",
        )
        for what, change, said in ODD
    },
    "a term is sparse": (
        {"score": lambda self, v: Scores(torch.zeros(1, v.tokens), {"t": torch.zeros(1, v.tokens).to_sparse()})},
        r"not dense .* from score\(\).*'t'",
    ),
    "a term has no name": (
        {"score": lambda self, v: Scores(torch.zeros(1, v.tokens), {3: torch.zeros(1, v.tokens)})},
        r"the name 3 from score\(\)",
    ),
    "the terms are nothing": (
        {"score": lambda self, v: Scores(torch.zeros(1, v.tokens), None)}, r"failed in score\(\) at layer 0: TypeError",
    ),
    "the total is a mask": (
        {"score": lambda self, v: torch.ones(1, v.tokens, dtype=torch.bool)}, r"of type torch\.bool from score",
    ),
    "observe is sparse": (
        {"observe": lambda self, v: {"n": torch.zeros(1, v.tokens).to_sparse()}}, r"not dense .* from observe\(\)",
    ),
    "select is uint16": (
        {"select": lambda self, s, n, v: unsigned(2)[None]}, r"torch\.uint16 from select",
    ),
    "due is a tensor": (
        {"due": lambda self, tokens, budgets: torch.tensor(tokens) > 3}, r"a Tensor from due\(\); it must be True or False",
    ),
    "due says nothing": ({"due": lambda self, tokens, budgets: None}, r"a NoneType from due\(\)"),
    "budgets break": ({"adapt_budgets": lambda self, b, s, v: BrokenList()}, r"failed in adapt_budgets\(\)"),
    "budgets are fractions": (
        {"adapt_budgets": lambda self, b, s, v: [0.5] * len(b)}, r"a float from adapt_budgets\(\) at layer 0",
    ),
    "mix breaks": ({"mix": lambda self, scores, views: BrokenList()}, r"failed in mix\(\)"),
    "reserve is negative": (
        {"reserve": lambda *_: -5, "budgets": lambda self, layers: [30] * layers}, r"out of range from reserve\(\)",
    ),
    "reserve is a fraction": (
        {"reserve": lambda *_: 0.5, "budgets": lambda self, layers: [30] * layers}, r"a float from reserve\(\)",
    ),
    "the window is a word": (
        {"window_queries": property(lambda self: "all"), "needs": frozenset({Need.CHUNK_ATTENTION})},
        r"a str from window_queries\(\)",
    ),
    "the window raises": (
        {"window_queries": property(boom), "needs": frozenset({Need.CHUNK_ATTENTION})}, r"failed in window_queries",
    ),
    "guidance is not iterable": (guiding(lambda self, history: 3), r"failed in guidance\(\): TypeError"),
    "guidance is a text": (guiding(lambda self, history: "ask"), r"a str from guidance\(\)"),
    "guidance is empty": (guiding(lambda self, history: (Guidance("q"),)), r"an empty text for 'q' from guidance"),
    "guidance has one name twice": (
        guiding(lambda self, history: (Guidance("q", "a"), Guidance("q", "b"))), r"one name twice from guidance",
    ),
    "guidance is of no kind": (guiding(lambda self, history: (Guidance("q", "a", "tune"),)), "the kind 'tune'"),
    "guidance breaks on the way": (
        guiding(lambda self, history: (1 / 0 for _ in range(2))), r"failed in guidance\(\): ZeroDivisionError",
    ),
    "reads is a word": (
        {**guiding(lambda self, history: (Guidance("q", "a"),)), "reads": lambda *_: "yes"}, r"a str from reads\(\)",
    ),
    "codec has no encode": ({"codec": lambda self: object(), "archives": True}, r"a object from codec\(\)"),
    "codec cannot count": ({"codec": lambda self: Uncounted(), "archives": True}, r"a str from codec\(\)"),
    "merge is sparse": (merging(keys=lambda v: v.keys[:, :1].to_sparse()), r"not dense .* from merge"),
    "merge is in whole numbers": (merging(values=lambda v: v.values[:, :1].long()), r"torch\.int64 from merge"),
    "merge stands between places": (merging(positions=lambda v: v.positions[0, :, :1] / 2), r"float32 from merge"),
    "merge stands before the start": (merging(positions=lambda v: v.positions[0, :, :1] - 10**6), "negative positions"),
    "merge is too large for the cache": (merging(keys=lambda v: v.keys[:, :1].double() * 1e300), r"NaN from merge"),
    "merge goes nowhere": (merging(place=lambda v: "middle"), r"the place 'middle' from merge"),
    "merge has no sources": (merging(sources=lambda v: None), r"failed in merge\(\)"),
    "merge has sources that are lists": (merging(sources=lambda v: ([1],)), r"a list from merge"),
    "merge has sources that are not there": (
        merging(sources=lambda v: (torch.tensor([10**6]),)), r"sources from 1000000 to 1000000 in merge\(\)",
    ),
    "merge has a width of its own": (
        {**merging(), "needs": frozenset(), "merge": lambda self, view, kept, scores: Merged(
            torch.zeros(2, 1, 3), torch.zeros(2, 1, 3), view.positions[0, :, :1], (view.ids[0, :1],))},
        "unequal shapes from merge",
    ),
    "admit is uint16": ({"admit": lambda self, a, m: Admission(unsigned(4))}, "not ascending"),
    "admit is sparse": ({"admit": lambda self, a, m: Admission(torch.arange(4).to_sparse())}, "not dense"),
    "admit has embeddings that are lists": (
        {"admit": lambda self, a, m: Admission(torch.arange(1), [[0.0]])}, r"a list from admit\(\)",
    ),
    "admit has terms that are lists": (
        {"admit": lambda self, a, m: Admission(torch.arange(4), terms={"t": [1.0]})}, r"a list from admit\(\)",
    ),
    "the exception is a book": ({"score": long_boom}, r"ValueError: x{300}…\. Nothing was changed"),
    "the exception ends in a full stop": ({"score": stopped_boom}, r"ValueError: This is wrong\. Nothing"),
    "the exception has many lines": ({"score": lined_boom}, r"ValueError: first\. Nothing"),
    "the exception cannot speak": ({"score": mute_boom}, r"failed in score\(\) at layer 0: Mute\. Nothing"),
    "the refusal is a book": ({"score": long_refusal}, r"^scripted: x{290}"),
}  # fmt: skip


# torch says of nested tensors that they may change; here one only has to be refused
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("fault", FAULTS)
def test_an_answer_of_the_wrong_kind_is_refused_in_one_sentence(lab: Lab, fault: str) -> None:
    check_refused(lab, *FAULTS[fault])


READING_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "sparse": ({"recall": lambda self, q: torch.arange(2)[None].to_sparse()}, "not dense"),
    "on no device": ({"recall": lambda self, q: torch.arange(2, device="meta")[None]}, "'meta'"),
    "uint16": ({"recall": lambda self, q: unsigned(2)[None]}, r"torch\.uint16 from recall"),
    "frames in words": (
        {"read_plan": lambda self: ReadPlan(recent_frames="2")}, r"a str from read_plan",
    ),
    "frames below none": (
        {"read_plan": lambda self: ReadPlan(recent_frames=-1)}, r"out of range from read_plan",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", READING_FAULTS)
def test_an_answer_of_the_wrong_kind_at_the_question(lab: Lab, fault: str) -> None:
    methods, sentence = READING_FAULTS[fault]
    session = StreamSession(lab, scripted(same_everywhere))
    session.feed(noise(4, 0))
    before = frozen(session)
    session.set_policy(scripted(same_everywhere, recalls=True, **methods))
    with pytest.raises(PolicyError, match=sentence):
        session.ask(QUESTION)
    assert same(frozen(session), before)


@pytest.mark.parametrize(
    ("decode", "sentence"),
    [
        (boom, r"failed in codec\(\) at layer 0: ZeroDivisionError"),
        (lambda self, stored: None, r"a NoneType from codec\(\) at layer 0"),
        (lambda self, stored: stored[:, :1], r"of shape \[2, 1, 16\] from codec\(\)"),
        (lambda self, stored: stored * torch.nan, r"must be finite numbers of shape"),
        (lambda self, stored: stored.to("meta"), r"holds no numbers from codec\(\)"),
    ],
)
def test_what_a_codec_gives_back_is_checked(lab: Lab, decode: Any, sentence: str) -> None:
    body = {"encode": lambda self, states, group: states, "stored_bytes": lambda self, stored: 1}
    codec = type("Bad", (Codec,), {**body, "decode": decode})()
    traits: dict[str, Any] = {"archives": True, "recalls": True, "recall": lambda self, q: None}
    session = StreamSession(lab, scripted(same_everywhere, codec=lambda self: codec, **traits))
    session.feed(noise(4, 0))
    before = frozen(session)
    with pytest.raises(PolicyError, match=sentence):
        session.ask(QUESTION)
    assert same(frozen(session), before)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
        RuntimeError("MPS backend out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_is_not_blamed_on_the_policy(lab: Lab, error: Exception) -> None:
    def exhausted(*_: Any) -> Any:
        raise error

    session = StreamSession(lab, scripted(same_everywhere), positions="eager")
    session.feed(noise(4, 0))
    before = frozen(session)
    session.set_policy(scripted(same_everywhere, score=exhausted), "eager")
    with pytest.raises(OutOfMemoryError, match="can go on") as caught:
        session.feed(noise(4, 1))
    assert caught.value.__cause__ is error
    assert same(frozen(session), before)
    session.set_policy(scripted(same_everywhere, recalls=True, recall=exhausted), "eager")
    with pytest.raises(OutOfMemoryError, match="can go on") as caught:
        session.ask(QUESTION)
    assert caught.value.__cause__ is error


def unscored(**methods: Any) -> Policy:
    """A policy that keeps every other token and defines no score."""
    body: dict[str, Any] = {"name": "unscored", **methods}
    return dataclass(frozen=True, kw_only=True)(type("Unscored", (Policy,), body))(budget_tokens=20)


def test_a_policy_may_define_select_alone(lab: Lab) -> None:
    def select(self: Any, scores: Scores, count: int, view: Any) -> torch.Tensor:
        assert not scores.total.any()
        return torch.arange(view.tokens)[None, ::2][:, :count]

    alone = unscored(select=select)
    wrapped = [
        alone, WithSummary(inner=alone, layers="all"), Prefiltered(inner=alone, gate="every_nth"),
        Composed(parts=("knorm(budget_tokens=40)", alone)), Banded(shallow=alone, middle="fifo(budget_tokens=20)", deep=alone),
    ]  # fmt: skip
    for policy in wrapped:
        session = StreamSession(lab, policy, positions="eager")
        decided = [len(session.feed(noise(8, seed)).decisions) for seed in range(3)]
        assert decided[0] == lab.layers
    session = StreamSession(lab, alone, positions="eager")
    snapshot = session.feed(noise(8, 0))
    for decision in snapshot.decisions:
        assert decision.kept[0, :40].tolist() == [True, False] * 20
        assert not decision.scores.any()

    neither = StreamSession(lab, unscored())
    with pytest.raises(PolicyError) as caught:
        neither.feed(noise(8, 0))
    assert str(caught.value) == "Policy 'unscored' must define score() or select()."


def test_class_attributes_of_a_policy_are_checked_when_it_is_chosen(lab: Lab) -> None:
    with pytest.raises(PolicyError, match="has needs = 'keys'; it must be a frozenset of Need"):
        StreamSession(lab, scripted(same_everywhere, needs="keys"))
    with pytest.raises(PolicyError, match="attention_detail = 'all'; it must be rows, heads or"):
        StreamSession(lab, scripted(same_everywhere, attention_detail="all"))
