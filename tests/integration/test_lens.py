"""Readouts and interventions at a question, against the literal decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hermes_lab import StreamSession, lens
from hermes_lab.errors import LabError
from hermes_lab.lab import Lab
from hermes_lab.tokens import Role
from tests.integration.test_session_isolation import frozen, same
from tests.reference.closeness import EFFECT, RELATIVE, assert_moved, assert_same
from tests.reference.streams import QUESTION, Beside, by_head, by_layer, noise, scripted

pytestmark = pytest.mark.upstream

Model = tuple[Lab, Path]

EDITED = (
    "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_rot_q", "attn.hook_rot_k",
    "attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_z", "hook_resid_pre",
    "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out",
    "ln1.hook_normalized", "ln2.hook_normalized",
)  # fmt: skip


def streamed(model: Model, choose: Any = by_head) -> Beside:
    both = Beside(*model, scripted(choose, per_head=choose is by_head), "eager")
    for step in range(2):
        both.feed(noise(2, step))
    return both


# --- hooks -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EDITED)
def test_an_edit_in_a_hook_changes_the_output(model: Model, name: str) -> None:
    session = streamed(model).session
    before, expected = frozen(session), session.question_logits(QUESTION)
    shapes: list[torch.Size] = []

    def edit(tensor: Tensor, hook: Any) -> Tensor:
        assert hook.name == f"blocks.1.{name}"
        assert hook.layer() == 1
        shapes.append(tensor.shape)
        return tensor.roll(1, -1) if "pattern" in name else tensor + torch.arange(tensor.shape[-1])

    with session.hooks([(f"blocks.1.{name}", edit)]):
        edited = session.question_logits(QUESTION)
    assert len(shapes) == 1
    assert_moved(edited, expected)
    with session.hooks([(f"blocks.1.{name}", lambda tensor, hook: tensor)]):
        assert_same(session.question_logits(QUESTION), expected)
    with session.hooks([(f"blocks.1.{name}", lambda tensor, hook: None)]):
        assert_same(session.question_logits(QUESTION), expected)
    assert torch.equal(session.question_logits(QUESTION), expected)
    assert same(frozen(session), before)


def test_an_edit_of_a_chunk_is_remembered(model: Model) -> None:
    """Edited keys and values are what later questions meet; the reference forgets to see the edit."""
    for name in ("attn.hook_v", "attn.hook_k", "attn.hook_rot_k"):
        both = Beside(*model)
        with both.session.hooks([(f"blocks.3.{name}", lambda x, hook: 0.5 * x)]):
            both.session.feed(noise(2, 0))
        both.reference.feed(
            both.lab.adapter.encode(noise(2, 0), [0.0, 1.0]),
            range(10**6, 10**6 + len(both.session.table) - len(both.prefix)),
        )
        for head in both.reference.layers[3].heads:
            part = head.values if name == "attn.hook_v" else head.keys
            part[len(both.prefix) :] *= 0.5
        expected = both.reference.feed(both.question(), store=False)
        assert_same(both.session.question_logits(QUESTION), expected)


def test_unknown_hooks_are_named(model: Model) -> None:
    session = streamed(model).session
    nothing = lambda tensor, hook: None  # noqa: E731
    for name, sentence in (
        ("blocks.0.attn.hook_patern", r"did you mean 'attn.hook_pattern'"),
        ("blocks.9.hook_mlp_out", "asks for layer 9, but the model has layers 0 to 3"),
        ("hook_embedding", "did you mean"),
    ):
        with pytest.raises(LabError, match=sentence), session.hooks([(name, nothing)]):
            pass
    with session.hooks([(lambda name: name.endswith("hook_z"), nothing)]):
        assert sum(session.board.listening(n) for n in session.board.names()) == 4
    assert session.board.quiet


# --- activations -------------------------------------------------------------------------------
def test_activation_cache_holds_the_literal_activations(model: Model) -> None:
    both = streamed(model)
    session = both.session
    before = frozen(session)
    logits, cache = session.run_with_cache(QUESTION)
    expected = both.reference.feed(both.question(), store=False)
    assert_same(logits[0], expected)
    assert set(cache.keys()) == set(session.board.names())
    for layer in range(both.lab.layers):
        assert_same(cache["pattern", layer][0], both.reference.patterns[layer])
        new, heads, dim = len(both.question()), session.engine.query_heads, both.reference.dim
        assert cache["z", layer].shape == cache["rot_q", layer].shape == (1, new, heads, dim)
        assert cache["k", layer].shape == (1, new, session.engine.kv_heads, dim)
        scores, pattern = cache["attn_scores", layer], cache["pattern", layer]
        assert torch.equal(scores.softmax(-1), pattern)
        assert_same(cache["resid_pre", layer] + cache["attn_out", layer], cache["resid_mid", layer])
        total = cache["resid_mid", layer] + cache["mlp_out", layer]
        assert_same(total, cache["resid_post", layer])
    assert_same(cache["ln_final.hook_normalized"][0] @ cache.model.W_U, logits[0])
    assert same(frozen(session), before)


def test_residual_stream_tools_of_transformer_lens_work_on_it(model: Model) -> None:
    session = streamed(model).session
    _, cache = session.run_with_cache(QUESTION)
    stack, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert len(labels) == len(stack) == 2 * session.engine.layers + 1
    parts = cache.decompose_resid(mode="all")
    assert_same(parts.sum(0), cache["resid_post", -1])
    if session.engine.adapter.family == "gemma3":  # a norm follows: z W_O is not what a head writes
        with pytest.raises(LabError, match="not its z times W_O"):
            cache.stack_head_results(incl_remainder=False)
        return
    heads = cache.stack_head_results(incl_remainder=False)
    by_layer_ = heads.unflatten(0, (session.engine.layers, -1)).sum(1)
    for layer, written in enumerate(by_layer_):
        assert_same(written, cache["attn_out", layer])


def test_a_filter_keeps_only_what_it_names(model: Model) -> None:
    session = streamed(model).session
    _, one = session.run_with_cache(QUESTION, "blocks.2.attn.hook_pattern")
    assert list(one.keys()) == ["blocks.2.attn.hook_pattern"]
    _, some = session.run_with_cache(QUESTION, lambda name: name.endswith("resid_post"))
    assert len(some) == session.engine.layers
    _, listed = lens.activation_cache(session, QUESTION, ["hook_embed", "blocks.0.hook_resid_pre"])
    assert_same(listed["hook_embed"], listed["blocks.0.hook_resid_pre"])


@pytest.mark.parametrize("policy", ["recent_frames(frames=2)", "rekv(budget_tokens=60)"])
def test_activations_are_those_of_the_question_under_policies_that_read_otherwise(
    model: Model, policy: str
) -> None:
    session = StreamSession(model[0], policy)
    for step in range(3):
        session.feed(noise(4, step))
    logits, cache = session.run_with_cache(QUESTION)
    assert_same(logits[0], session.question_logits(QUESTION))
    new = len(session.engine.adapter.question(QUESTION))
    assert all(cache["pattern", n].shape[2] == new for n in range(session.engine.layers))


# --- tokens ----------------------------------------------------------------------------------------
def test_tokens_are_picked_by_what_they_are(model: Model) -> None:
    session = streamed(model, by_layer).session
    table = session.table
    held = {int(i) for n in range(4) for i in session.layer_ids(n).flatten()}
    everything = lens.tokens(session, held=False)
    assert everything.tolist() == list(range(len(table)))
    assert set(lens.tokens(session).tolist()) == held
    first = lens.tokens(session, frames=0, held=False)
    assert all(table.column("frame")[i] == 0 for i in first.tolist())
    several = lens.tokens(session, frames=range(1, 4), role=["visual", Role.MARKER], layer=2)
    expected = [
        i for i in sorted(set(session.layer_ids(2).flatten().tolist()))
        if table.column("frame")[i] in (1, 2, 3) and table.column("role")[i] in (1, 2)
    ]  # fmt: skip
    assert several.tolist() == expected
    cell = lens.tokens(session, rows=0, cols=[0, 1], held=False)
    assert len(cell)
    assert all(table.column("row")[i] == 0 for i in cell.tolist())
    timed = lens.tokens(session, between_s=(1.0, 3.0), held=False)
    assert {float(t) for t in table.column("time_s")[timed.numpy()]} <= {1.0, 2.0}
    assert torch.equal(lens.tokens(session, layer=-1), lens.tokens(session, layer=3))
    with pytest.raises(LabError, match="There is no layer 4"):
        lens.tokens(session, layer=4)


# --- logit lens ---------------------------------------------------------------------------------------
def test_logit_lens_reads_every_layer_and_ends_at_the_models_own_logits(model: Model) -> None:
    session = streamed(model).session
    logits = session.question_logits(QUESTION)
    answers = ["a", 5, " b"]
    found = lens.logit_lens(session, QUESTION, answers, positions=None)
    assert found.answer_ids == lens.answer_ids(session, answers)
    assert found.positions == tuple(range(len(logits)))
    ids = list(found.answer_ids)
    assert_same(found.logits[-1], logits[:, ids])
    assert_same(found.log_probs[-1], logits.log_softmax(-1)[:, ids])
    expected = (logits[:, None] > logits[:, ids][..., None]).sum(-1)
    assert np.array_equal(found.ranks[-1], expected.numpy())
    assert np.array_equal(found.top_ids[-1], logits.topk(5).indices.numpy())
    _, cache = session.run_with_cache(QUESTION)
    middle = session.engine.logits(session.engine.adapter.decoder.norm(cache["resid_post", 1][0]))
    assert_same(found.logits[1], middle[:, ids])
    assert_moved(found.logits[1], found.logits[-1])
    entropy = torch.distributions.Categorical(logits=middle).entropy()
    assert_same(found.entropy[1], entropy)
    last = lens.logit_lens(session, QUESTION)
    assert last.answer_ids == (int(logits[-1].argmax()),)
    assert last.ranks[-1, 0, 0] == 0
    assert len(last.top_text) == session.engine.layers


def test_bad_answers_and_positions_are_named(model: Model) -> None:
    session = streamed(model).session
    for call, sentence in (
        (lambda: lens.logit_lens(session, QUESTION, [""]), "has no token"),
        (lambda: lens.logit_lens(session, QUESTION, [10**6]), "not in the vocabulary"),
        (lambda: lens.logit_lens(session, QUESTION, []), "at least one answer"),
        (lambda: lens.logit_lens(session, QUESTION, positions=[99]), "Position 99 lies outside"),
        (lambda: lens.logit_lens(session, QUESTION, positions=[]), "No positions were given"),
        (lambda: lens.logit_difference(session, QUESTION, "ab", "ac"), "begin with the same token"),
    ):
        with pytest.raises(LabError, match=sentence):
            call()


# --- patching ------------------------------------------------------------------------------------------------
def test_patching_everything_gives_the_other_run(model: Model) -> None:
    one, two = streamed(model).session, streamed(model, by_layer).session
    clean = one.question_logits(QUESTION)
    wanted, cache = two.run_with_cache(QUESTION, lambda name: "resid" in name)
    assert_moved(wanted[0], clean)
    last = one.engine.layers - 1
    assert_same(lens.patch(one, QUESTION, cache, f"blocks.{last}.hook_resid_post"), wanted[0])
    part = lens.patch(one, QUESTION, cache, f"blocks.{last}.hook_resid_post", positions=[-1])
    assert_same(part[-1], wanted[0, -1])
    assert_same(part[:-1], clean[:-1])
    own = one.run_with_cache(QUESTION)[1]
    assert_same(lens.patch(one, QUESTION, own, None), clean)
    assert torch.equal(one.question_logits(QUESTION), clean)


def test_patching_heads_and_unequal_questions(model: Model) -> None:
    session = streamed(model).session
    clean = session.question_logits(QUESTION)
    _, cache = session.run_with_cache("Is there a longer question to be asked?")
    name = "blocks.2.attn.hook_z"
    patched = lens.patch(session, QUESTION, cache, name, positions=[-1], heads=[1])

    def by_hand(z: Tensor, hook: Any) -> Tensor:
        z = z.clone()
        z[0, -1, 1] = cache[name][0, -1, 1]
        return z

    with session.hooks([(name, by_hand)]):
        expected = session.question_logits(QUESTION)
    assert torch.equal(patched, expected)
    assert_moved(patched[-1], clean[-1])
    assert_same(patched[:-1], clean[:-1])
    sweep = lens.patch_sweep(session, QUESTION, cache, "a", "b", positions=[-1, -2])
    assert sweep.differences.shape == (session.engine.layers, 2)
    assert sweep.clean == pytest.approx(lens.logit_difference(session, QUESTION, "a", "b"))
    end = cache["resid_post", session.engine.layers - 1][0, -1:]
    logits = session.engine.logits(session.engine.adapter.decoder.norm(end))[0]
    first, second = lens.answer_ids(session, ["a", "b"])
    assert sweep.differences[-1, 0] == pytest.approx(
        float(logits[first] - logits[second]), rel=1e-3
    )
    assert abs(sweep.differences[-1, 1] - sweep.clean) < EFFECT * RELATIVE
    for arguments, sentence in (
        ({"names": name}, "name positions from the end"),
        ({"names": "blocks.0.hook_mlp_out", "positions": [-1], "heads": 0}, "has no heads"),
        ({"names": name, "positions": [-1], "heads": 9}, "There is no query head 9"),
        ({"names": name, "positions": [99]}, "Position 99 is not in both turns"),
        ({"names": "blocks.1.attn.hook_pattern", "positions": [-1]}, "equal size"),
    ):
        with pytest.raises(LabError, match=sentence):
            lens.patch(session, QUESTION, cache, **arguments)
    with pytest.raises(LabError, match="holds no activation of"):
        lens.patch(session, QUESTION, {}, name)
