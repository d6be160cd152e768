"""What a policy is shown it cannot change: not the cache, not a fork, not a chunk, not what it said before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hermes_lab import StreamSession, policies
from hermes_lab.errors import PolicyError
from hermes_lab.lab import Lab
from hermes_lab.policies.base import Admission, Arrival, Guidance, Merged, Need, Policy, Scores
from hermes_lab.policies.fifo import Fifo
from hermes_lab.policies.hermes import Hermes
from hermes_lab.segment import Segment
from tests.integration.test_session_isolation import frozen as copied_state
from tests.integration.test_session_isolation import same
from tests.reference.streams import QUESTION, noise, same_everywhere, scripted

EVERYTHING = frozenset(Need)


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Lab:
    labs: Callable[[str], tuple[Lab, Path]] = request.getfixturevalue("labs")
    return labs("qwen2_5_vl")[0]


def frozen(session: StreamSession) -> list[Any]:
    """Everything that a policy might touch, copied; tokens without carried state are equal to each other."""
    return [
        {n: v.nan_to_num(-1.0) for n, v in one.items()} if isinstance(one, dict) else one
        for one in copied_state(session)
    ]


def shown(view: Any, name: str) -> Tensor:
    """A tensor of a view by its name; of a mapping, the first."""
    value = getattr(view, name)
    return value if isinstance(value, Tensor) else next(iter(value.values()))


def tensors_of(view: Any) -> list[Tensor]:
    """Every tensor of a view that can be written as a whole, and what it is a slice of."""
    found: list[Tensor] = []
    for field in fields(view):
        value = getattr(view, field.name)
        several = [value] if isinstance(value, Tensor) else getattr(value, "values", list)()
        for one in several:
            found += [one] if one._base is None else [one, one._base]
    return [one for one in found if one.shape[0] == 1 or one.stride(0)]


def observing(**methods: Any) -> Policy:
    """A policy that is shown everything, decides after every chunk and carries a number for each token."""
    given: dict[str, Any] = {
        "needs": EVERYTHING,
        "guidance": lambda self, history: (Guidance("ask", "What happens?"),),
        "observe": lambda self, view: {"age": view.ids.float()},
        **methods,
    }
    return scripted(same_everywhere, **given)


def started(lab: Lab, policy: Policy, **options: Any) -> StreamSession:
    session = StreamSession(lab, policy, positions="eager", **options)
    session.feed(noise(4, 0))
    session.feed(noise(4, 1))
    return session


SMALL = ("ids", "positions", "frame", "row", "col", "role", "time_s")
LARGE = ("keys", "values", "attention", "received", "received_queries", "queries", "carried")


def writing(method: str, name: str) -> Policy:
    """A policy whose `method` overwrites one thing that it is shown at layer 2."""

    def spoil(view: Any) -> None:
        if view.layer == 2:
            shown(view, name)[..., -1] = 3

    def score(self: Any, view: Any) -> Scores:
        spoil(view)
        return Scores(torch.zeros(view.ids.shape))

    def mix(self: Any, scores: Any, views: Any) -> Any:
        spoil(views[2])
        return scores

    def adapt_budgets(self: Any, budgets: Any, scores: Any, views: Any) -> Any:
        spoil(views[2])
        return budgets

    def select(self: Any, scores: Any, count: int, view: Any) -> Tensor:
        spoil(view)
        return same_everywhere(view)

    def merge(self: Any, view: Any, kept: Tensor, scores: Any) -> None:
        spoil(view)

    def observe(self: Any, view: Any) -> dict[str, Tensor]:
        spoil(view)
        return {"age": view.ids.float()}

    made = {
        "score": score, "mix": mix, "adapt_budgets": adapt_budgets, "select": select, "merge": merge,
        "observe": observe,
    }  # fmt: skip
    return observing(**{method: made[method]})


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *(("score", name) for name in (*SMALL, *LARGE)),
        *((method, "keys") for method in ("mix", "adapt_budgets", "select", "merge", "observe")),
        *((method, "ids") for method in ("mix", "adapt_budgets", "select", "merge", "observe")),
        ("observe", "values"), ("observe", "carried"), ("observe", "received"),
    ],
)  # fmt: skip
def test_a_write_is_refused_by_name_and_reaches_nothing(lab: Lab, method: str, name: str) -> None:
    session = started(lab, observing())
    fork, before = session.fork(), frozen(session)
    logits, step = session.question_logits(QUESTION), session.stream.step
    session.set_policy(writing(method, name), "eager")
    with pytest.raises(PolicyError, match=rf"'scripted'.* in {method}\(\)") as caught:
        session.feed(noise(4, 2))
    # copies of one row for several heads cannot be written at all; torch says so
    assert f"wrote into '{name}" in str(caught.value) or "RuntimeError" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert session.stream.step == step
    assert same(frozen(session), before)
    assert same(frozen(fork), before)
    session.set_policy(observing(), "eager")
    assert torch.equal(session.question_logits(QUESTION), logits)
    untroubled = started(lab, observing())
    for one in (session, fork, untroubled):
        one.feed(noise(4, 2))
    assert same(frozen(session), frozen(untroubled))
    assert same(frozen(fork), frozen(untroubled))


def test_writes_that_torch_does_not_count_reach_nothing_either(lab: Lab) -> None:
    def score(self: Any, view: Any) -> Scores:
        for one in tensors_of(view):
            one.data.zero_()
        return Scores(torch.zeros(view.ids.shape))

    spoiling, honest = (started(lab, observing(**m)) for m in ({"score": score}, {}))
    fork, before = spoiling.fork(), frozen(spoiling)
    snapshots = [s.feed(noise(4, 2)) for s in (spoiling, honest)]
    assert same(frozen(spoiling), frozen(honest))
    assert same(frozen(fork), before)
    for one, other in zip(*(s.decisions for s in snapshots), strict=True):
        assert np.array_equal(one.candidates, other.candidates)
        assert np.array_equal(one.kept, other.kept)


@pytest.mark.parametrize("fails", [True, False])
def test_views_kept_from_a_step_before_are_of_no_use(lab: Lab, fails: bool) -> None:
    held: list[Any] = []

    def keep(self: Any, view: Any) -> dict[str, Tensor]:
        held.append(view)
        return {"age": view.ids.float()}

    def spoil() -> None:
        for one in [one for view in held for one in tensors_of(view)]:
            one.fill_(7)

    def score(self: Any, view: Any) -> Scores:
        spoil()
        if fails:
            raise ZeroDivisionError
        return Scores(torch.zeros(view.ids.shape))

    # without a decision the cache still holds the very tensors that it held when they were shown
    never = {"due": lambda self, tokens, budgets: False}
    session, honest = (
        started(lab, observing(observe=keep, **never)),
        started(lab, observing(**never)),
    )
    fork, before = session.fork(), frozen(session)
    assert len(held) == 2 * lab.layers
    assert same(before, frozen(honest))
    spoil()
    assert same(frozen(session), before)

    session.set_policy(observing(score=score), "eager")
    honest.set_policy(observing(), "eager")
    if fails:
        with pytest.raises(PolicyError, match=r"failed in score\(\) at layer 0: ZeroDivisionError"):
            session.feed(noise(4, 2))
        assert same(frozen(session), before)
        session.set_policy(observing(), "eager")
    for one in (session, honest):
        one.feed(noise(4, 2))
    assert same(frozen(session), frozen(honest))
    assert same(frozen(fork), before)


# --- before the decoder and at the question -----------------------------------------------------------
def copied(segment: Segment) -> dict[str, Any]:
    """All tensors and arrays of a segment, copied."""
    known = {f.name: getattr(segment, f.name) for f in fields(segment)}
    return {
        n: v.clone() if isinstance(v, Tensor) else v.copy()
        for n, v in known.items()
        if isinstance(v, Tensor | np.ndarray)
    }


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("name", ["embeds", "features", "saliency", "visual", "frame", "time_s"])
def test_a_gate_cannot_write_into_the_chunk(lab: Lab, name: str, counted: bool) -> None:
    def admit(self: Any, arrival: Arrival, memory: dict[str, Any]) -> Admission:
        tensor = getattr(arrival, name)
        (tensor if counted else tensor.data).zero_()
        return Admission(torch.arange(len(arrival.row)))

    segment = lab.adapter.encode(list(noise(4, 0)), [0.0, 1.0, 2.0, 3.0], want_saliency=True)
    before = copied(segment)
    session = StreamSession(
        lab, scripted(same_everywhere, admit=admit, needs=EVERYTHING), keep_visual=True
    )
    if counted:
        with pytest.raises(PolicyError, match=rf"wrote into '{name}' in admit\(\)"):
            session.feed_segment(segment)
        session.set_policy(scripted(same_everywhere))
    session.feed_segment(segment)
    (chunk,) = session.stream.chunks
    for known in (segment, chunk.segment):
        now = copied(known)
        assert now.keys() == before.keys()
        assert all(np.array_equal(now[n], before[n]) for n in now)
    honest = StreamSession(lab, scripted(same_everywhere))
    honest.feed_segment(segment)
    assert torch.equal(session.question_logits(QUESTION), honest.question_logits(QUESTION))


def test_what_a_gate_remembers_must_be_copyable_and_is_a_copy(lab: Lab) -> None:
    leaked: list[dict[str, Any]] = []

    def admit(self: Any, arrival: Arrival, memory: dict[str, Any]) -> None:
        memory["sum"] = arrival.embeds.sum()
        leaked.append(memory)

    session = started(lab, scripted(same_everywhere, admit=admit))
    known = session.stream.memory["sum"].clone()
    leaked[-1]["sum"].zero_()
    leaked[-1]["more"] = 1
    assert session.stream.memory.keys() == {"sum"}
    assert torch.equal(session.stream.memory["sum"], known)

    def unwieldy(self: Any, arrival: Arrival, memory: dict[str, Any]) -> None:
        memory["generator"] = (i for i in range(3))

    session.set_policy(scripted(same_everywhere, admit=unwieldy))
    with pytest.raises(PolicyError, match=r"failed in admit\(\): TypeError: cannot pickle"):
        session.feed(noise(4, 2))
    assert session.stream.memory.keys() == {"sum"}
    session.set_policy(scripted(same_everywhere))
    session.feed(noise(4, 2))


@pytest.mark.parametrize("archives", [True, False])
@pytest.mark.parametrize("name", ["keys", "ids", "positions", "queries"])
def test_recall_cannot_write_into_the_memory(lab: Lab, name: str, archives: bool) -> None:
    def recall(self: Any, question: Any) -> None:
        tensor = question.queries if name == "queries" else getattr(question.view, name)
        tensor.zero_()

    traits: dict[str, Any] = {"needs": EVERYTHING, "archives": archives, "recalls": True}
    honest = scripted(same_everywhere, **traits, guidance=lambda self, history: ())
    session = started(lab, honest)
    before, logits = frozen(session), session.question_logits(QUESTION)
    session.set_policy(
        scripted(same_everywhere, **traits, guidance=lambda self, history: (), recall=recall)
    )
    with pytest.raises(PolicyError, match=rf"wrote into '{name}' in recall\(\) at layer 0"):
        session.ask(QUESTION)
    assert same(frozen(session), before)
    session.set_policy(honest)
    assert torch.equal(session.question_logits(QUESTION), logits)


def test_the_history_is_not_the_policys_to_write(lab: Lab) -> None:
    seen: list[Any] = []

    def guidance(self: Any, history: Any) -> tuple[Guidance, ...]:
        seen.append(history)
        history.append(("a", "b"))
        return ()

    session = started(lab, observing())
    session.ask(QUESTION, max_new_tokens=2, remember=True)
    known = session.stream.history
    assert [question for question, _ in known] == [QUESTION]
    session.set_policy(observing(guidance=guidance))
    with pytest.raises(PolicyError, match=r"failed in guidance\(\)"):
        session.feed(noise(4, 2))
    assert list(seen[0]) == list(known)
    assert session.stream.history == known
    undo = session.stream.mark()
    session.ask(QUESTION, max_new_tokens=2, remember=True)
    assert len(session.stream.history) == 2
    undo()
    assert session.stream.history == known


# --- a policy's own answers ----------------------------------------------------------------------------
def test_what_was_checked_is_what_is_applied_and_recorded(lab: Lab) -> None:
    """Whatever the policy does later to the tensors that it returned, and to those that it gets back."""
    returned: list[Tensor] = []

    def score(self: Any, view: Any) -> Scores:
        return Scores(-view.ids.float() * (view.layer + 1), {"layer": view.ids * 0.0})

    def select(self: Any, scores: Scores, count: int, view: Any) -> Tensor:
        returned.append(torch.arange(view.layer, view.tokens, 2)[None])
        return returned[-1]

    def spoil(self: Any, view: Any, kept: Tensor, scores: Any) -> None:
        for tensor in (kept, scores.total, *scores.terms.values(), *returned):
            tensor.zero_()
        scores.terms.clear()

    methods = {"score": score, "select": select}
    honest = started(lab, scripted(same_everywhere, **methods))
    other = started(lab, scripted(same_everywhere, **methods, merge=spoil))
    assert same(frozen(honest), frozen(other))
    assert honest.snapshot is not None and other.snapshot is not None
    for one, two in zip(honest.snapshot.decisions, other.snapshot.decisions, strict=True):
        assert np.array_equal(one.scores, two.scores)
        assert np.array_equal(one.kept, two.kept)
        assert two.terms.keys() == {"layer"}


@pytest.mark.parametrize("method", ["score", "select", "term"])
def test_one_buffer_cannot_be_the_answer_of_several_layers(lab: Lab, method: str) -> None:
    buffer, whole = torch.zeros(1, 4096), torch.zeros(1, 4096, dtype=torch.long)

    def score(self: Any, view: Any) -> Any:
        total = buffer[:, : view.tokens].fill_(view.layer)
        return Scores(torch.zeros(1, view.tokens), {"t": total}) if method == "term" else total

    def select(self: Any, scores: Scores, count: int, view: Any) -> Tensor:
        whole[0, :3] = torch.tensor([0, 1, 2]) + view.layer
        return whole[:, :3]

    session = started(lab, scripted(same_everywhere))
    before = frozen(session)
    methods = {"select": select} if method == "select" else {"score": score}
    session.set_policy(scripted(same_everywhere, **methods))
    asked = "select" if method == "select" else "score"
    with pytest.raises(PolicyError, match=rf"had returned from {asked}\(\) at layer 0; let it"):
        session.feed(noise(4, 2))
    assert same(frozen(session), before)


def test_merged_tokens_are_copied_when_they_are_checked(lab: Lab) -> None:
    keys = torch.zeros(2, 1, 16)

    def merging(buffer: bool) -> Policy:
        def merge(self: Any, view: Any, kept: Tensor, scores: Any) -> Merged:
            made = view.keys[:, :1] * (view.layer + 1)
            keys.copy_(made)
            return Merged(
                keys if buffer else made, keys if buffer else made.clone(),
                view.positions[0, :, :1], (view.ids[0, :1],),
            )  # fmt: skip

        needs = frozenset({Need.KEYS, Need.VALUES})
        return scripted(same_everywhere, merge=merge, needs=needs, reserve=lambda *_: 1)

    one, other = (started(lab, merging(buffer)) for buffer in (True, False))
    assert same(frozen(one), frozen(other))


def test_mixing_in_place_is_checked_too(lab: Lab) -> None:
    def mix(self: Any, scores: Any, views: Any) -> Any:
        scores[1].total.fill_(torch.nan)
        return scores

    session = started(lab, scripted(same_everywhere))
    session.set_policy(scripted(same_everywhere, mix=mix))
    with pytest.raises(PolicyError, match=r"returned NaN from mix\(\) at layer 1"):
        session.feed(noise(4, 2))


# --- nothing that the library keeps ---------------------------------------------------------------------
def oldest_best(scores: Scores) -> Scores:
    """The same scores, turned around in place."""
    for value in (scores.total, *scores.terms.values()):
        value.copy_(-torch.arange(value.shape[-1]))
    return scores


@dataclass(frozen=True, kw_only=True)
class BackwardFifo(Fifo):
    def score(self, view: Any) -> Scores:
        return oldest_best(super().score(view))


@dataclass(frozen=True, kw_only=True)
class BackwardHermes(Hermes):
    def score(self, view: Any) -> Scores:
        return oldest_best(super().score(view))


@pytest.mark.parametrize(("name", "backward"), [("fifo", BackwardFifo), ("hermes", BackwardHermes)])
def test_one_policy_does_not_poison_the_next(
    labs: Callable[[str], tuple[Lab, Path]], name: str, backward: type[Policy]
) -> None:
    lab = labs("llava_onevision")[0]

    def run(policy: Policy) -> tuple[list[Any], list[Any]]:
        session = started(lab, policy)
        assert session.snapshot is not None
        return frozen(session), [d.scores.tolist() for d in session.snapshot.decisions]

    before = run(policies.get(name, budget_tokens=20))
    assert len(before[1]) == lab.layers
    assert not same(run(backward(budget_tokens=20))[0], before[0])
    assert run(policies.get(name, budget_tokens=20))[1] == before[1]
    assert same(run(policies.get(name, budget_tokens=20))[0], before[0])
