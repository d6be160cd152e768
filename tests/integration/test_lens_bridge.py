"""TransformerLens' own bridge on the same weights and the same ragged memory, and its installer fenced off."""

from __future__ import annotations

import importlib.metadata
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hermes_lab
from hermes_lab import StreamSession, lens
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab
from hermes_lab.lens.fence import fenced
from tests.checkpoints import FAMILIES
from tests.integration.test_session_isolation import frozen, same
from tests.reference.closeness import assert_moved, assert_same
from tests.reference.streams import QUESTION, by_head, by_layer, noise, scripted

pytestmark = pytest.mark.upstream

BOOTABLE = (*FAMILIES, "smolvlm")


@pytest.fixture(params=BOOTABLE)
def lab(request: pytest.FixtureRequest, labs: Callable[[str], tuple[Lab, Path]]) -> Lab:
    return labs(request.param)[0]


def streamed(lab: Lab, policy: Any = None, chunks: int = 2) -> StreamSession:
    policy = scripted(by_head, per_head=True) if policy is None else policy
    session = StreamSession(lab, policy, positions="eager")
    for step in range(chunks):
        session.feed(noise(4, step))
    return session


def drop_a_head(tensor: Tensor, hook: Any) -> Tensor:
    tensor = tensor.clone()
    tensor[:, :, 1] = 0
    return tensor


def tilt(tensor: Tensor, hook: Any) -> Tensor:
    return tensor + torch.linspace(-1, 1, tensor.shape[-1])


EDITS: dict[str, Callable[..., Tensor]] = {
    "attn.hook_z": drop_a_head,
    "attn.hook_v": tilt,
    "attn.hook_rot_q": tilt,
    "attn.hook_rot_k": tilt,
    "attn.hook_attn_scores": tilt,
    "attn.hook_pattern": lambda tensor, hook: tensor.roll(1, -1),
    "hook_resid_pre": tilt,
    "hook_resid_post": tilt,
    "hook_mlp_out": tilt,
}


def test_a_boot_installs_nothing_and_leaves_the_model_alone(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every family that can boot; the processes that TransformerLens would start are an error."""

    def refuse(*arguments: Any, **_: Any) -> None:
        raise AssertionError(f"tried to run {arguments}")

    for name in ("check_call", "run", "Popen", "call", "check_output"):
        monkeypatch.setattr(subprocess, name, refuse)

    def installed() -> set[tuple[str, str]]:
        return {(d.name, d.version) for d in importlib.metadata.distributions()}

    before, version = installed(), torch.__version__
    for family in BOOTABLE:
        lab = hermes_lab.load(checkpoint(family))
        session = streamed(lab)
        logits, memory = session.question_logits(QUESTION), frozen(session)
        settings = lab.adapter.model.config.to_dict()
        tokenizer = dict(vars(lab.adapter.tokenizer))
        lens.bridge(session)(QUESTION)
        assert lab.adapter.model.config.to_dict() == settings
        assert lab.adapter.decoder.config._attn_implementation == "hermes_lab_stream"
        assert vars(lab.adapter.tokenizer).keys() == tokenizer.keys()
        assert torch.equal(session.question_logits(QUESTION), logits)
        assert same(frozen(session), memory)
        mine = {type(m).__module__.split(".")[0] for m in lab.adapter.model.modules()}
        assert "transformer_lens" not in mine
    assert installed() == before
    assert torch.__version__ == version


def test_the_installer_stays_fenced_off() -> None:
    from transformer_lens.model_bridge.sources.transformers import helpers

    with fenced():
        pass
    assert helpers._ensure_torchvision() is False
    with pytest.raises(ModuleNotFoundError):
        __import__("torchvision")


def test_there_is_one_copy_of_the_weights(lab: Lab) -> None:
    bridged: nn.Module = lens.bridge(streamed(lab)).model.original_model
    mine = {t.data_ptr() for t in lab.adapter.model.parameters()}
    theirs = {t.data_ptr() for t in bridged.parameters()}
    assert theirs == mine
    buffers = {t.data_ptr() for t in lab.adapter.model.buffers()}
    extra = [t for t in bridged.buffers() if t.data_ptr() not in buffers]
    assert buffers <= {t.data_ptr() for t in bridged.buffers()}
    vocabulary = lab.adapter.head.weight.shape[0]
    assert sum(t.numel() for t in extra) <= vocabulary  # TransformerLens' bias of zeros
    assert bridged is not lab.adapter.model


@pytest.mark.parametrize("choose", [by_layer, by_head])
def test_the_bridge_reads_the_ragged_memory_as_the_session_does(lab: Lab, choose: Any) -> None:
    session = streamed(lab, scripted(choose, per_head=choose is by_head))
    bridge = lens.bridge(session)
    for step in range(2):
        assert_same(bridge(QUESTION)[0], session.question_logits(QUESTION))
        session.feed(noise(2, 20 + step))
    other = streamed(lab, "full")
    assert_same(lens.bridge(other)(QUESTION)[0], other.question_logits(QUESTION))
    assert_moved(bridge(QUESTION), lens.bridge(other)(QUESTION))
    assert lens.bridge(other).model is bridge.model


def test_both_caches_hold_the_same_activations(lab: Lab) -> None:
    session = streamed(lab)
    logits, theirs = lens.bridge(session).run_with_cache(QUESTION)
    expected, mine = session.run_with_cache(QUESTION)
    assert_same(logits, expected)
    names = ["hook_resid_pre", "hook_resid_post", "attn.hook_pattern", "attn.hook_rot_q"]
    for layer in range(lab.layers):
        for name in names:
            full = f"blocks.{layer}.{name}"
            assert_same(theirs[full], mine[full])
        flat = mine[f"blocks.{layer}.attn.hook_z"]
        assert_same(theirs[f"blocks.{layer}.attn.hook_z"].reshape(flat.shape), flat)
    only, some = lens.bridge(session).run_with_cache(QUESTION, "blocks.1.attn.hook_pattern")
    assert list(some.keys()) == ["blocks.1.attn.hook_pattern"]
    assert_same(only, logits)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_in_the_bridge_is_the_edit_in_the_session(lab: Lab, name: str) -> None:
    session = streamed(lab)
    before, clean = frozen(session), session.question_logits(QUESTION)
    hooks = [(f"blocks.1.{name}", EDITS[name])]
    edited = lens.bridge(session).run_with_hooks(QUESTION, hooks)[0]
    assert_moved(edited, clean)
    with session.hooks(hooks):
        assert_same(edited, session.question_logits(QUESTION), 1e-5)
    assert_same(lens.bridge(session)(QUESTION)[0], clean)
    assert same(frozen(session), before)


def test_knockouts_hold_in_the_bridge(lab: Lab) -> None:
    session = streamed(lab)
    clean = session.question_logits(QUESTION)
    with lens.knockout(session, lens.tokens(session, frames=[0, 1]), layers=[0, 2], heads=[1, 2]):
        expected = session.question_logits(QUESTION)
        assert_same(lens.bridge(session)(QUESTION)[0], expected)
    assert_moved(expected, clean)


@pytest.mark.parametrize("policy", ["recent_frames(frames=2)", "rekv(budget_tokens=60)"])
def test_the_bridge_reads_what_the_policy_lets_a_question_read(lab: Lab, policy: str) -> None:
    session = streamed(lab, policy, chunks=3)
    assert_same(lens.bridge(session)(QUESTION)[0], session.question_logits(QUESTION))


def test_threads_share_a_bridge(labs: Callable[[str], tuple[Lab, Path]]) -> None:
    lab = labs("qwen2_5_vl")[0]
    sessions = [streamed(lab), streamed(lab, "full")]
    expected = [lens.bridge(session)(QUESTION) for session in sessions]
    found: dict[int, list[Tensor]] = {0: [], 1: []}

    def work(number: int) -> None:
        for _ in range(5):
            found[number].append(lens.bridge(sessions[number])(QUESTION))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        assert len(found[number]) == 5
        assert all(torch.equal(one, expected[number]) for one in found[number])


def test_a_family_that_cannot_boot_is_refused_in_one_sentence(
    labs: Callable[[str], tuple[Lab, Path]],
) -> None:
    session = streamed(labs("qwen2_vl")[0])
    with pytest.raises(LabError, match="TransformerLens has no architecture for") as caught:
        lens.bridge(session)
    assert "session.run_with_cache()" in str(caught.value)
    assert session.run_with_cache(QUESTION)[1]["pattern", 0].ndim == 4
