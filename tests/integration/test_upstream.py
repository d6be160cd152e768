"""What is assumed of transformers and TransformerLens is checked: where they move, nothing is wrong in silence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hermes_lab
from hermes_lab import StreamSession, lens
from hermes_lab.engine import upstream
from hermes_lab.engine.attention import NAME
from hermes_lab.errors import LabError, ModelError
from hermes_lab.lab import Lab
from tests.checkpoints import FAMILIES
from tests.integration.test_session_isolation import frozen, same
from tests.reference.closeness import assert_same
from tests.reference.streams import QUESTION, noise

pytestmark = pytest.mark.upstream

POLICIES = ("full", "fifo(budget_tokens=20)", "hermes(budget_tokens=20)")


@pytest.fixture
def fresh(checkpoint: Callable[..., Path]) -> Callable[..., Lab]:
    """`fresh(family)`: a lab of its own, which a test may break."""
    return lambda family="llava_onevision", **options: hermes_lab.load(
        checkpoint(family), **options
    )


# --- the KV cache ------------------------------------------------------------------------------
@pytest.mark.parametrize("policy", POLICIES)
def test_a_decoder_that_keeps_another_cache_ends_the_step_in_one_sentence(
    fresh: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    session = StreamSession(fresh(), policy)
    session.feed(noise(4, 0))
    before, held = frozen(session), session.cache_bytes
    with monkeypatch.context() as patch:
        patch.setattr(upstream, "cache_keyword", lambda module: "memory")
        with pytest.raises(ModelError, match="did not use the stream's KV cache") as caught:
            session.feed(noise(4, 1))
        with pytest.raises(ModelError, match="did not use the stream's KV cache"):
            session.ask(QUESTION)
    assert f"transformers {upstream.version('transformers')}" in str(caught.value)
    assert held > 0 and same(frozen(session), before)
    session.feed(noise(4, 1))
    assert session.snapshot is not None and session.snapshot.step == 1


def test_the_keyword_is_chosen_by_signature_and_an_unknown_one_is_refused() -> None:
    class Old(nn.Module):
        def forward(self, hidden: Any, past_key_values: Any = None) -> None: ...

    class Both(nn.Module):
        def forward(self, hidden: Any, past_key_values: Any = None, cache: Any = None) -> None: ...

    class Other(nn.Module):
        def forward(self, hidden: Any, memory: Any = None, **kwargs: Any) -> None: ...

    assert upstream.cache_keyword(Old()) == "past_key_values"
    assert upstream.cache_keyword(Both()) == "cache"
    with pytest.raises(ModelError, match="takes its KV cache under none of the names"):
        upstream.cache_keyword(Other())


# --- positions ---------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_family_turns_keys_by_the_tables_of_the_pass(
    fresh: Callable[..., Lab], family: str, dtype: str
) -> None:
    lab = fresh(family, dtype=dtype)
    session = StreamSession(lab, "fifo(budget_tokens=60)")
    session.feed(noise(2, 0))
    assert session.cache_bytes > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_that_ignores_the_tables_of_the_pass_is_refused(
    fresh: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr(upstream, "with_tables", lambda kwargs, tables, device: dict(kwargs))
    with pytest.raises(ModelError, match="does not turn its keys by the rotary tables"):
        StreamSession(fresh(family), "full")


def test_keys_whose_neighbouring_dimensions_are_paired_are_refused(
    fresh: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.qwen2 import modeling_qwen2

    def interleaved(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        half = cos.shape[-1] // 2
        wave = [t[..., :half].repeat_interleave(2, -1).unsqueeze(1) for t in (cos, sin)]

        def turned(x: Tensor) -> Tensor:
            pairs = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
            return x * wave[0] + pairs * wave[1]

        return turned(q), turned(k)

    monkeypatch.setattr(modeling_qwen2, "apply_rotary_pos_emb", interleaved)
    with pytest.raises(ModelError, match="pairs other dimensions than the two halves of a head"):
        StreamSession(fresh(), "full")


# --- attention ---------------------------------------------------------------------------------
def test_attention_that_does_not_come_through_the_stream_is_refused(
    fresh: Callable[..., Lab],
) -> None:
    lab = fresh()
    session = StreamSession(lab, "full")
    lab.adapter.decoder.set_attn_implementation("sdpa")
    with pytest.raises(ModelError, match="attention of 0 of 4 layers went through the stream"):
        session.feed(noise(2, 0))
    lab.adapter.decoder.set_attn_implementation(NAME)
    session.feed(noise(2, 0))
    assert session.cache_bytes > 0


def test_a_model_whose_attention_cannot_be_replaced_is_refused() -> None:
    class Fixed(nn.Module):
        config = None

    with pytest.raises(ModelError, match="does not let its attention be replaced"):
        upstream.set_attention(Fixed(), NAME)


def test_a_layer_without_attention_of_its_own_is_refused() -> None:
    layer = nn.ModuleDict({"linear_attn": nn.Identity(), "mlp": nn.Identity()})
    with pytest.raises(ModelError, match="has no self_attn, so it cannot be streamed"):
        upstream.block_of(layer)


# --- the bridge --------------------------------------------------------------------------------
def test_a_bridge_that_forgets_the_stream_is_refused(
    fresh: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

    def forget(self: Any, k: Tensor, v: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        return k, v

    session = StreamSession(fresh(), "full")
    session.feed(noise(2, 0))
    bridge = lens.bridge(session)
    monkeypatch.setattr(AttentionBridge, "_update_kv_cache", forget)
    with pytest.raises(ModelError, match="did not use the stream's KV cache"):
        bridge(QUESTION)


def test_a_bridge_with_other_logits_is_refused_when_it_is_made(
    fresh: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    def blind(current: Any, layer: int, query: Tensor, tokens: int) -> Tensor:
        mask = torch.ones(query.shape[2], tokens, dtype=torch.bool).tril(tokens - query.shape[2])
        mask[:, :1] = tokens == query.shape[2]
        return mask[None, None]

    session = StreamSession(fresh(), "full")
    session.feed(noise(2, 0))
    with monkeypatch.context() as patch:
        patch.setattr(import_module("hermes_lab.lens.bridge"), "mask_of", blind)
        with pytest.raises(LabError, match="computes other logits for"):
            lens.bridge(session)
    assert_same(lens.bridge(session)(QUESTION)[0], session.question_logits(QUESTION), 1e-5)


# --- what is announced -------------------------------------------------------------------------
AHEAD = """
import sys
import transformers.utils.deprecation as deprecation

if sys.argv[1] == "removed":
    deprecation.deprecate_kwarg = lambda *args, **kwargs: lambda function: function
import hermes_lab
from hermes_lab import StreamSession, video

lab = hermes_lab.load("pocket")
for policy in ("full", "hermes(budget_tokens=64)"):
    run = StreamSession(lab, policy)
    for chunk in video.open("world:seed=7,frames=24").chunks(8):
        run.feed(chunk)
    print(*(f"{x:.4f}" for x in run.question_logits("what was the first object")[-1].tolist()))
"""


def test_logits_stay_when_deprecated_arguments_are_gone() -> None:
    """transformers' decorator renames arguments until they are removed; without it nothing may change."""

    def logits(state: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", AHEAD, state], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    now = logits("as it is")
    assert len(now.split()) > 200
    assert logits("removed") == now
