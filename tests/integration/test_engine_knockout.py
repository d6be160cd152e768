"""A knocked-out token is as if masked, in the layers and heads named, in the passes named, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hermes_lab import lens
from hermes_lab.engine import attention
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab
from tests.reference.closeness import assert_moved, assert_same
from tests.reference.streams import (
    QUESTION,
    Beside,
    by_head,
    by_layer,
    noise,
    same_everywhere,
    scripted,
)

Model = tuple[Lab, Path]


@pytest.mark.parametrize("choose", [by_layer, by_head])
@pytest.mark.parametrize(
    ("layers", "heads"), [(None, None), ((1, 3), None), (None, (0, 3)), ((2,), (1,))]
)
def test_knockout_equals_masking(
    model: Model, choose, layers: tuple[int, ...] | None, heads: tuple[int, ...] | None
) -> None:
    both = Beside(*model, scripted(choose, per_head=choose is by_head), "eager")
    for step in range(3):
        both.feed(noise(2, step))
    session = both.session
    untouched, expected = both.ask()
    assert_same(untouched, expected)
    ids = lens.tokens(session, frames=[2, 3, 4, 5])

    def hide(layer: int, head: int, cached: Tensor) -> Tensor:
        here = (layers is None or layer in layers) and (heads is None or head in heads)
        return torch.isin(cached, ids) & here

    both.reference.hide = hide
    with lens.knockout(session, ids, layers=layers, heads=heads):
        knocked, masked = both.ask()
    assert_same(knocked, masked)
    assert_moved(knocked, expected)
    both.reference.hide = None
    assert torch.equal(session.question_logits(QUESTION), untouched)
    assert not session.knockouts


def test_knockouts_add_up_and_miss_what_is_not_there(model: Model) -> None:
    both = Beside(*model, scripted(same_everywhere))
    for step in range(4):
        both.feed(noise(4, step))
    session = both.session
    expected = session.question_logits(QUESTION)
    evicted = [i for i in range(len(session.table)) if i not in session.layer_ids(0)]
    assert evicted
    with lens.knockout(session, evicted):
        assert_same(session.question_logits(QUESTION), expected)
    ids = lens.tokens(session, role="visual")
    with lens.knockout(session, ids[:10]), lens.knockout(session, ids[10:]):
        parts = session.question_logits(QUESTION)
    with lens.knockout(session, ids):
        whole = session.question_logits(QUESTION)
    assert_same(parts, whole)
    assert_moved(whole, expected)


def test_a_knockout_holds_for_every_token_of_the_answer(model: Model) -> None:
    both = Beside(*model)
    both.feed(noise(4, 0))
    session = both.session
    seen: list[float] = []
    ids = lens.tokens(session, role="visual")

    def watch(pattern: Tensor, hook: object) -> None:
        cached = session.layer_ids(1)[0]
        seen.append(float(pattern[..., : len(cached)][..., torch.isin(cached, ids)].max()))

    hooks = [("blocks.1.attn.hook_pattern", watch)]
    with session.hooks(hooks), lens.knockout(session, ids, layers=1):
        answer = session.ask(QUESTION, max_new_tokens=3)
    assert len(seen) == len(answer.token_ids)
    assert seen == [0.0] * len(seen)


def test_a_knockout_of_chunks_changes_what_is_remembered(model: Model) -> None:
    both, plain = Beside(*model), Beside(*model)
    for beside in (both, plain):
        beside.feed(noise(2, 0))
    ids = lens.tokens(both.session, frames=[0, 1])
    both.reference.hide = lambda layer, head, cached: torch.isin(cached, ids)
    with lens.knockout(both.session, ids, passes=("chunk",)):
        both.feed(noise(2, 1))
    both.reference.hide = None
    plain.feed(noise(2, 1))
    assert_same(*both.ask())
    assert_moved(both.ask()[0], plain.ask()[0])


def test_bad_knockouts_are_named(model: Model) -> None:
    session = Beside(*model).session
    session.feed(noise(2, 0))
    for arguments, sentence in (
        (([10**6],), "Token ids must lie between 0"),
        (([0], 4), "There is no layer 4; the model has layers 0 to 3"),
        (([0], None, 7), "There is no query head 7; the model has heads 0 to 3"),
        (([0], None, None, ("questions",)), r"did you mean 'question'\?"),
    ):
        with pytest.raises(LabError, match=sentence), lens.knockout(session, *arguments):
            pass
    with pytest.raises(LabError, match=r"did you mean 'visual'\?"):
        lens.tokens(session, role="visuals")
    assert not session.knockouts


def test_without_knockouts_and_listeners_nothing_is_masked_or_computed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody listens to costs nothing: no pattern, no rows, no mask beyond causality."""
    calls: list[str] = []

    def counted(name: str):
        original = getattr(attention, name)

        def count(*args, **kwargs):
            calls.append(name)
            return original(*args, **kwargs)

        return count

    for name in ("pattern_of", "_received", "_rows", "_whole", "_fire_swapped", "_edit_new_keys"):
        monkeypatch.setattr(attention, name, counted(name))
    heard: list[object] = []
    both = Beside(*model, "fifo(budget_tokens=60)")
    both.feed(noise(4, 0))
    both.session.ask(QUESTION, max_new_tokens=2)
    assert calls == []
    with both.session.hooks([("blocks.2.attn.hook_pattern", lambda p, hook: heard.append(hook))]):
        both.session.ask(QUESTION, max_new_tokens=1)
    assert calls.count("pattern_of") == 1 == len(heard)
    calls.clear()
    both.session.ask(QUESTION, max_new_tokens=1)
    assert calls == []
    both.session.ask(QUESTION, max_new_tokens=1, attention=True)
    assert calls.count("pattern_of") == both.lab.layers
