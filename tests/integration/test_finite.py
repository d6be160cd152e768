"""A model whose numbers overflow ends the step or the answer in one sentence; nothing that follows looks like data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hermes_lab
from hermes_lab import StreamSession, lens
from hermes_lab.engine.finite import all_finite, blame
from hermes_lab.engine.passes import current_pass
from hermes_lab.errors import ModelError, PolicyError
from hermes_lab.lab import Lab
from hermes_lab.policies.base import Guidance, Need
from hermes_lab.recording import Recording
from tests.integration.test_policy_readonly import frozen
from tests.integration.test_session_isolation import same
from tests.reference.streams import QUESTION, noise, same_everywhere, scripted

FAMILIES = ("llava_onevision", "qwen2_5_vl", "gemma3")
OVERFLOW = r"are not finite in float16 from layer 1 on, .*dtype='bfloat16' or dtype='float32'\.$"


@contextmanager
def scaled(module: nn.Module, factor: float) -> Iterator[None]:
    """A module's output times a factor inside the block."""
    handle = module.register_forward_hook(lambda module, args, out: out * factor)
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(params=FAMILIES)
def half(request: pytest.FixtureRequest, checkpoint: Callable[..., Path]) -> Lab:
    """A model in float16."""
    return hermes_lab.load(checkpoint(request.param), dtype="float16")


@pytest.fixture
def lab(labs: Callable[[str], tuple[Lab, Path]]) -> Lab:
    return labs("llava_onevision")[0]


def mlp(lab: Lab, layer: int = 1) -> nn.Module:
    return lab.adapter.layers[layer].mlp


def test_a_model_that_overflows_from_its_first_pass_on_is_not_said_to_turn_keys_wrongly(
    half: Lab,
) -> None:
    half.adapter.layers[1].mlp.down_proj.weight.data.mul_(3e4)
    with pytest.raises(ModelError, match=OVERFLOW):
        StreamSession(half, "full").feed(noise(4, 0))


@pytest.mark.parametrize(
    "policy",
    ["full", "fifo(budget_tokens=48)", "hermes(budget_tokens=48)", "h2o(budget_tokens=48)"],
)
def test_a_step_that_overflows_is_undone_and_the_model_named(
    half: Lab, policy: str, tmp_path: Path
) -> None:
    with StreamSession(half, policy, record=tmp_path / "run") as session:
        session.feed(noise(4, 0))
        before, snapshot = frozen(session), session.snapshot
        with scaled(mlp(half), 1e5), pytest.raises(ModelError, match=OVERFLOW) as caught:
            session.feed(noise(4, 1))
        assert half.name in str(caught.value)
        assert "olicy" not in str(caught.value)
        assert same(frozen(session), before)
        assert session.snapshot is snapshot
        session.feed(noise(4, 1))
    assert len(Recording.open(tmp_path / "run").steps) == 2


def test_a_question_that_overflows_is_not_answered(half: Lab, tmp_path: Path) -> None:
    with StreamSession(half, "full", record=tmp_path / "run") as session:
        session.feed(noise(4, 0))
        with scaled(mlp(half), 1e5):
            for ask in (
                lambda: session.ask(QUESTION),
                lambda: session.ask(QUESTION, remember=True, attention=True),
                lambda: next(session.stream_answer(QUESTION)),
                lambda: session.question_logits(QUESTION),
                lambda: lens.logit_lens(session, QUESTION),
            ):
                with pytest.raises(ModelError, match="are not finite in float16 from layer 1 on"):
                    ask()
            with pytest.raises(ModelError, match=r"layer 1 on, .* unless a hook made them so\.$"):
                session.run_with_cache(QUESTION)
        assert session.stream.history == ()
        assert session.ask(QUESTION, max_new_tokens=1).token_ids
    assert len(Recording.open(tmp_path / "run").answers) == 1


def test_the_last_layer_the_first_and_the_embeddings_are_told_apart(half: Lab) -> None:
    session = StreamSession(half, "full")
    last = half.layers - 1
    with scaled(mlp(half, last), 1e5), pytest.raises(ModelError, match=f"from layer {last} on"):
        session.feed(noise(4, 0))
    with scaled(mlp(half, 0), 1e5), pytest.raises(ModelError, match="from layer 0 on"):
        session.feed(noise(4, 0))
    projected = half.adapter.layers[2].self_attn.v_proj
    with scaled(projected, 1e6), pytest.raises(ModelError, match="from layer 2 on"):
        session.feed(noise(4, 0))
    segment = half.adapter.encode(list(noise(4, 0)), [0.0, 1.0, 2.0, 3.0])
    segment.embeds[3, 0] = torch.inf
    gate = scripted(same_everywhere, admit=lambda self, arrival, memory: None)
    for policy in ("full", gate):
        with pytest.raises(ModelError, match="not finite in float16 from the embeddings on"):
            StreamSession(half, policy).feed_segment(segment)


def test_an_overflow_on_the_way_through_an_answer(half: Lab) -> None:
    """The prefill is right; the pass of a generated token is not."""
    session = StreamSession(half, "full")
    session.feed(noise(4, 0))
    texts = session.stream_answer(QUESTION, max_new_tokens=4)
    half.adapter.__dict__["eos_ids"] = frozenset()
    next(texts)
    with scaled(mlp(half), 1e5), pytest.raises(ModelError, match=OVERFLOW):
        next(texts)


def test_logits_may_overflow_alone(half: Lab) -> None:
    session = StreamSession(half, "full")
    session.feed(noise(4, 0))
    with scaled(half.adapter.head, 1e7):
        for ask in (session.ask, session.question_logits, session.run_with_cache):
            with pytest.raises(ModelError, match="are not finite in float16 in the logits"):
                ask(QUESTION)
    assert session.ask(QUESTION, max_new_tokens=1).token_ids


def test_a_guidance_prompt_may_overflow_alone(half: Lab) -> None:
    """Its pass has no hidden states at its end; the attention that it leaves is looked at."""
    asking = {
        "needs": frozenset({Need.GUIDANCE}),
        "guidance": lambda self, history: (Guidance("ask", "What happens?"),),
    }
    session = StreamSession(half, scripted(same_everywhere, **asking))

    def spoil(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        current = current_pass()
        return out * torch.nan if current is not None and current.kind == "guidance" else out

    handle = half.adapter.layers[1].register_forward_hook(spoil)
    try:
        with pytest.raises(ModelError, match="are not finite in float16 from layer 2 on"):
            session.feed(noise(4, 0))
    finally:
        handle.remove()
    assert session.stream.step == 0
    session.feed(noise(4, 0))


def test_a_policy_that_fails_on_spoilt_keys_is_not_to_blame(lab: Lab) -> None:
    session = StreamSession(lab, "full")
    session.feed(noise(4, 0))
    cache, adapter = session.stream.cache, lab.adapter
    fault = PolicyError("Policy 'x' returned NaN from score() at layer 2.")
    with pytest.raises(PolicyError) as told, blame(adapter, cache):
        raise fault
    assert told.value is fault

    state = cache.stream_layers[2].state
    assert state.keys is not None
    keys = state.keys.clone()
    keys[0, 0, 7, 0] = torch.inf  # of one head alone: this layer made it
    cache.stream_layers[2].state = replace(state, keys=keys)
    with (
        pytest.raises(ModelError, match="in float32 from layer 2 on") as named,
        blame(adapter, cache),
    ):
        raise fault
    assert named.value.__cause__ is fault
    assert "its weights may be damaged" in str(named.value)


def test_a_hook_that_makes_nan_is_named_as_a_possible_cause(lab: Lab) -> None:
    session = StreamSession(lab, "full")
    session.feed(noise(4, 0))
    hook = ("blocks.2.hook_mlp_out", lambda x, hook: x * torch.nan)
    with session.hooks([hook]), pytest.raises(ModelError, match="unless a hook made them so"):
        session.ask(QUESTION)
    with session.hooks([hook]), pytest.raises(ModelError, match="from layer 2 on"):
        session.feed(noise(4, 1))
    assert session.ask(QUESTION, max_new_tokens=1).token_ids


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_only_numbers_are_finite(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    good = torch.tensor([[largest, -largest], [0.0, 1.0]], dtype=dtype)
    assert all_finite(good, good.double(), torch.empty(0, 3))
    assert all_finite()
    for bad in (torch.nan, torch.inf, -torch.inf):
        spoilt = good.clone()
        spoilt[1, 0] = bad
        assert not all_finite(spoilt)
        assert not all_finite(good, good.double(), spoilt)
