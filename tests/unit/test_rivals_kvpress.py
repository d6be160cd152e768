"""kvpress scorers as policies: the adapter's own contract with a stand-in press, and kvpress' results where it is installed.

kvpress pins a transformers below the one that this project needs, so it is not among the test dependencies. To run the
comparison, put it on the path without its pins:

    pip install --no-deps kvpress "cachetools<6" fire termcolor
    pytest tests/unit/test_rivals_kvpress.py

What kvpress 0.5.5 answered on the shared example lies beside this file, so that our own scorers are always compared.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hermes_lab import policies
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import LayerView, Need
from hermes_lab.policies.kvpress import KVPress
from tests.fabricate import decide, gather, layer_view

HAS_KVPRESS = importlib.util.find_spec("kvpress") is not None
EXAMPLE = Path(__file__).with_name("rivals_kvpress_0_5_5.safetensors")
needs_kvpress = pytest.mark.skipif(
    not HAS_KVPRESS, reason="kvpress is not installed: its pins exclude this transformers"
)


@dataclass
class LargestFirstChannel:
    """A press in kvpress' form that scores by the first channel of the keys, and notes what it was given."""

    compression_ratio: float = 0.0
    scale: float = 1.0

    def score(
        self,
        module: Any,
        hidden_states: Any,
        keys: Tensor,
        values: Tensor,
        attentions: Tensor | None,
        kwargs: dict[str, Any],
    ) -> Tensor:
        assert keys.shape == values.shape
        assert keys.ndim == 4
        assert hidden_states.shape[1] == keys.shape[2]
        assert module.num_key_value_groups * keys.shape[1] == module.config.num_attention_heads
        assert kwargs == {}
        return self.scale * keys[..., 0] * self.compression_ratio


def test_the_adapter_shows_a_layer_and_takes_the_scores() -> None:
    view = layer_view(frames=5, per_head=True, budget_tokens=5)
    found = KVPress(press=LargestFirstChannel(), budget_tokens=5).score(view)
    torch.testing.assert_close(found.total, view.keys[..., 0] * (1 - 5 / 20))
    assert set(found.terms) == {"press"}


def test_the_press_itself_is_left_alone() -> None:
    press = LargestFirstChannel(compression_ratio=0.25)
    KVPress(press=press).score(layer_view(per_head=True, budget_tokens=4))
    assert press.compression_ratio == 0.25


def test_one_set_for_all_heads() -> None:
    view = layer_view(frames=5)
    shared = policies.get(
        "shared_heads", inner=KVPress(press=LargestFirstChannel(), budget_tokens=5)
    )
    assert decide(shared, [view])[0].kept.shape == (1, 5)


@dataclass
class ReadsHiddenStates(LargestFirstChannel):
    """A press that computes queries from hidden states."""

    def score(self, module: Any, hidden_states: Any, keys: Tensor, *rest: Any) -> Tensor:
        return hidden_states[:, -4:].sum() * keys[..., 0]


@dataclass
class AsksForDevice(LargestFirstChannel):
    """A press that asks hidden states for something else."""

    def score(self, module: Any, hidden_states: Any, keys: Tensor, *rest: Any) -> Tensor:
        return keys[..., 0].to(hidden_states.device)


@pytest.mark.parametrize("press", [ReadsHiddenStates(), AsksForDevice()])
def test_presses_that_read_hidden_states_are_refused_in_words(press: Any) -> None:
    with pytest.raises(PolicyError, match="reads hidden states, which a stream no longer has"):
        KVPress(press=press).score(layer_view(per_head=True))


def test_what_cannot_be_a_policy_is_refused_in_words() -> None:
    with pytest.raises(PolicyError, match="has no score"):
        KVPress(press=SimpleNamespace())
    observed = type("ObservedAttentionPress", (LargestFirstChannel,), {})
    with pytest.raises(PolicyError, match="use the policy 'h2o'"):
        KVPress(press=observed())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kvpress", None)  # as if it were not installed
    with pytest.raises(PolicyError, match="needs the package kvpress"):
        policies.get("kvpress(press=KnormPress)")


# --- with kvpress ---------------------------------------------------------------------------------
# Every press whose score reads keys, values or the newest attention rows, with fields that suit 24 tokens.
PRESSES: dict[str, tuple[dict[str, Any], bool]] = {
    "KnormPress": ({}, False),
    "KeyDiffPress": ({}, False),
    "LagKVPress": ({"n_sink": 2, "lag_size": 5}, False),
    "StreamingLLMPress": ({"n_sink": 3}, False),
    "RandomPress": ({"seed": 3}, False),
    "SnapKVPress": ({"window_size": 4, "kernel_size": 3}, True),
    "PyramidKVPress": ({"window_size": 4, "kernel_size": 3}, True),
    "TOVAPress": ({}, True),
}


def own_result(press: Any, view: LayerView, kept: int, rows: Tensor | None) -> list[set[int]]:
    """What the press' scorer keeps by kvpress' own `compress`: tokens are marked by their number in a value channel."""
    from kvpress import ScorerPress

    press.compression_ratio = 1 - kept / view.tokens
    keys, values = view.keys[None].clone(), view.values[None].clone()
    marks = torch.arange(view.tokens, dtype=torch.float32)
    module = SimpleNamespace(
        head_dim=keys.shape[-1], layer_idx=0, num_key_value_groups=2,
        config=SimpleNamespace(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4),
    )  # fmt: skip
    hidden = torch.zeros(1, view.tokens, 4)
    torch.manual_seed(0)
    score = press.score(module, hidden, keys, values, rows, {})
    press.score = lambda *_: score  # compress on marked values with the scores of the true ones
    marked = torch.zeros_like(values)
    marked[..., 0] = marks
    _, left = ScorerPress.compress(press, module, hidden, keys, marked, rows, {})
    return [set(head.long().tolist()) for head in left[0, ..., 0]]


@needs_kvpress
@pytest.mark.parametrize("name", PRESSES)
def test_the_adapter_keeps_what_kvpress_keeps(name: str) -> None:
    import kvpress

    options, reads = PRESSES[name]
    view = layer_view(frames=6, per_head=True, rows=options.get("window_size", 1), budget_tokens=10)
    policy = KVPress(
        press=name, options=tuple(options.items()), reads_attention=reads, budget_tokens=10
    )
    rows = view.attention["chunk"][None] if reads else None
    torch.manual_seed(0)
    (decision,) = decide(policy, [view])
    expected = own_result(getattr(kvpress, name)(**options), view, 10, rows)
    score = decision.scores.total
    for head, (ours, theirs) in enumerate(zip(decision.kept.tolist(), expected, strict=True)):
        if name != "LagKVPress":
            assert set(ours) == theirs
        # ranks tie across partitions, and kvpress leaves the choice among them to topk
        assert sorted(score[head, ours].tolist()) == sorted(score[head, sorted(theirs)].tolist())
    assert (Need.CHUNK_ATTENTION in policy.needs) is reads
    assert policies.from_config(policy.config()).config() == policy.config()


def shared_example() -> tuple[LayerView, Tensor]:
    """Keys, values and newest rows of one layer, and a whole prompt's causal attention."""
    stored = load_file(EXAMPLE)
    view = layer_view(
        frames=6, per_head=True, keys=stored["keys"], values=stored["values"],
        attention={"chunk": stored["rows"]}, budget_tokens=10,
    )  # fmt: skip
    return view, stored["prompt"]


def kvpress_scores(view: LayerView, prompt: Tensor) -> dict[str, Tensor]:
    """What kvpress' scorers answer on the shared example."""
    import kvpress

    module = SimpleNamespace(config=SimpleNamespace(num_key_value_heads=2, num_attention_heads=4))
    states = view.keys[None], view.values[None]
    answers = {"ObservedAttentionPress": kvpress.ObservedAttentionPress().score(module, None, *states, prompt[None], {})[0]}  # fmt: skip
    for name in ("KnormPress", "KeyDiffPress", "LagKVPress", "SnapKVPress", "TOVAPress"):
        options, reads = PRESSES[name]
        adapter = KVPress(press=name, options=tuple(options.items()), reads_attention=reads)
        answers[name] = adapter.score(view).total
    return {name: answer.contiguous() for name, answer in answers.items()}


@needs_kvpress
def test_the_stored_answers_are_kvpress_own() -> None:
    found = kvpress_scores(*shared_example())
    stored = load_file(EXAMPLE)
    for name, answer in found.items():
        torch.testing.assert_close(stored[name], answer)


@pytest.mark.parametrize(
    ("press", "ours"),
    [
        ("KnormPress", "knorm"),
        ("KeyDiffPress", "keydiff"),
        ("LagKVPress", "lagkv(sink_tokens=2, lag_tokens=5)"),
        ("SnapKVPress", "snapkv(window_tokens=4, kernel=3)"),
        ("TOVAPress", "tova"),
        ("ObservedAttentionPress", "h2o"),
    ],
)
def test_our_policies_score_as_kvpress_does(press: str, ours: str) -> None:
    view, prompt = shared_example()
    theirs = load_file(EXAMPLE)[press]
    policy = policies.get(ours)
    if press == "ObservedAttentionPress":  # one chunk that is the whole prompt
        seen = torch.arange(24, 0, -1).float()
        view = replace(view, received=prompt.sum(1), received_queries=seen)
        view = replace(view, carried=dict(policy.observe(view)))
    own = policy.score(view)
    if press == "TOVAPress":  # kvpress keeps the last token whatever its own attention
        torch.testing.assert_close(own.total.expand(2, -1)[:, :-1], theirs[:, :-1])
    elif press == "SnapKVPress":  # and the window at a value of its own
        torch.testing.assert_close(own.terms["attention"][:, :-4], theirs[:, :-4])
        assert own.total[:, -4:].min() > own.total[:, :-4].max()
    else:
        torch.testing.assert_close(own.total, theirs)


@needs_kvpress
def test_unknown_presses_and_options_are_named() -> None:
    with pytest.raises(PolicyError, match="has no press 'NormPress'"):
        policies.get("kvpress(press=NormPress)")
    with pytest.raises(PolicyError, match="does not take these options"):
        policies.get('kvpress(press=KnormPress, options=(("size", 3),))')
    with pytest.raises(PolicyError, match="use the policy 'h2o'"):
        policies.get("kvpress(press=ObservedAttentionPress)")


@needs_kvpress
def test_expected_attention_is_refused_in_words() -> None:
    view = layer_view(frames=6, per_head=True, budget_tokens=10)
    with pytest.raises(PolicyError, match="hidden states"):
        policies.get("kvpress(press=ExpectedAttentionPress)").score(view)


def test_gathered_marks_are_what_was_kept() -> None:
    """The comparison's own premise: gathering by index is what kvpress' compress does."""
    view = layer_view(frames=3, per_head=True)
    kept = torch.tensor([[0, 5], [3, 11]])
    assert torch.equal(gather(view.ids, kept), view.ids.gather(1, kept))
