"""Side-by-side knockouts agree with knocking out one by one, and with recomputing from scratch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from analysis import answers, interventions, streams
from analysis.planted import Plant, planted_lab
from hermes_lab.lens import knockout
from hermes_lab.worlds import TYPES

PLANT = Plant()
FRAMES = 20


@pytest.fixture(scope="module")
def setting():
    lab = planted_lab(PLANT)
    with (
        torch.no_grad()
    ):  # attention far from uniform in the middle too, so that every layer matters
        for layer in lab.adapter.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                noise = torch.randn(
                    projection.weight.shape, generator=torch.Generator().manual_seed(1)
                )
                projection.weight += 0.15 * noise
    stream = streams.held_out(1, FRAMES)[0]
    segments = streams.encode(lab, stream, chunk_frames=8)
    session = streams.feed(lab, segments)
    return lab, stream, segments, session, streams.Grid.of(session)


def sets(grid, rng):
    return {
        "recent": interventions.recent(grid, 3),
        "older": interventions.older(grid, 3),
        "slot": interventions.slot(grid, PLANT.slot),
        "random": interventions.random_tokens(grid, 40, interventions.recent(grid, 3), rng),
    }


def test_agrees_with_one_knockout_at_a_time(setting):
    _, stream, _, session, grid = setting
    question = stream.questions(1)[0].text
    before = [state.keys.clone() for state in session.stream.cache.states]
    chosen = sets(grid, np.random.default_rng(0))
    ranges = [(0,), (2, 3), tuple(range(PLANT.layers))]
    cases = [(layers, ids) for layers in ranges for ids in chosen.values()]
    many = interventions.knocked_logits(
        session,
        question,
        [interventions.untouched(session)]
        + [interventions.condition(session, layers, ids) for layers, ids in cases],
    )
    base = session.question_logits(question)[-1]
    assert torch.allclose(many[0], base, atol=2e-5)
    for logits, (layers, ids) in zip(many[1:], cases, strict=True):
        with knockout(session, ids, layers):
            alone = session.question_logits(question)[-1]
        assert torch.allclose(logits, alone, atol=2e-5)
    assert (many[1:] - base).abs().amax(1).max() > 0.05
    assert all(
        torch.equal(a, state.keys)
        for a, state in zip(before, session.stream.cache.states, strict=True)
    )


def test_splitting_into_passes_changes_nothing(setting, monkeypatch):
    _, stream, _, session, grid = setting
    question = stream.questions(1)[0].text
    made = [interventions.condition(session, (i % 6,), grid.ids[i]) for i in range(7)]
    whole = interventions.knocked_logits(session, question, made)
    monkeypatch.setattr(interventions, "ROW_KEYS", 1)
    assert torch.allclose(interventions.knocked_logits(session, question, made), whole, atol=2e-5)


@torch.no_grad()
def test_agrees_with_the_stock_model_under_an_explicit_mask(setting):
    """Brute force: the unmodified model on the whole sequence, with the hidden pairs masked by hand."""
    lab, stream, segments, session, grid = setting
    adapter = lab.adapter
    question = adapter.question(stream.questions(1)[0].text)
    embeds = torch.cat([adapter.prefix().embeds, *(s.embeds for s in segments), question.embeds])
    hidden = interventions.recent(grid, 3)
    rows = len(embeds) - len(question)
    causal = torch.full((len(embeds), len(embeds)), -torch.inf).triu(1)
    blind = causal.clone()
    blind[rows:, torch.as_tensor(hidden)] = -torch.inf

    stock = type(adapter.model)(copy.deepcopy(adapter.model.config))  # the engine keeps its own
    stock.load_state_dict(adapter.model.state_dict())
    stock.eval().set_attn_implementation("eager")
    decoder = stock.model.language_model
    masked = 1  # the layer where tokens are hidden
    for index, layer in enumerate(decoder.layers):
        mask = blind if index == masked else causal
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, mask=mask: (
                args,
                kwargs | {"attention_mask": mask[None, None]},
            ),
            with_kwargs=True,
        )
    out = decoder(inputs_embeds=embeds[None], use_cache=False).last_hidden_state
    expected = stock.lm_head(out[0, -1])
    ours = interventions.knocked_logits(
        session,
        stream.questions(1)[0].text,
        [interventions.condition(session, (masked,), hidden), interventions.untouched(session)],
    )
    assert torch.allclose(ours[0], expected, atol=1e-4)
    assert not torch.allclose(ours[1], expected, atol=1e-3)


def test_last_row_and_question_knockouts(setting):
    _, stream, _, session, grid = setting
    question = stream.questions(1)[0].text
    hidden = np.zeros(len(session.table), dtype=bool)
    hidden[grid.ids.ravel()] = True
    last = PLANT.layers - 1
    all_rows = interventions.Condition(frozenset({last}), hidden)
    last_row = interventions.Condition(frozenset({last}), hidden, last_row_only=True)
    alone = interventions.Condition(frozenset({0}), ~hidden & hidden, hide_question=True)
    logits = interventions.knocked_logits(
        session, question, [all_rows, last_row, alone, interventions.untouched(session)]
    )
    # In the last layer only the last row reaches the answer.
    assert torch.allclose(logits[0], logits[1], atol=2e-5)
    assert (logits[2] - logits[3]).abs().max() > 1e-3


def test_matched_controls_match(setting):
    *_, grid = setting
    rng = np.random.default_rng(0)
    for _ in range(50):
        frames = interventions.random_frames(grid, 3, rng)
        assert len(frames) == len(interventions.recent(grid, 3))
        assert not np.isin(frames, interventions.recent(grid, 3)).any()
        slots = interventions.random_slots(grid, PLANT.slot, rng)
        assert len(slots) == grid.frames
        assert not np.isin(slots, interventions.slot(grid, PLANT.slot)).any()
        assert (np.isin(grid.ids, slots).sum(1) == 1).all()
    tokens = interventions.random_tokens(grid, 30, interventions.recent(grid, 3), rng)
    assert len(np.unique(tokens)) == 30


def test_margins_and_classes(setting):
    _, stream, _, session, _ = setting
    for kind in TYPES:
        assert len(answers.alternatives(kind)) >= 2
    for question in stream.questions(3):
        assert question.answer in answers.alternatives(question.type)
        target = answers.Target.of(session, question)
        logits = torch.zeros(2, session.question_logits(question.text).shape[1])
        logits[0, target.answer] = 2.0
        logits[1, target.others[0]] = 1.0
        assert target.margin(logits) == pytest.approx([2.0, -1.0 / len(target.others)])
        assert target.right(logits).tolist() == [1.0, 0.0]
    p = torch.tensor([0.0, 1.0, 2.0])
    assert answers.divergence(p, torch.stack([p, p.flip(0)]))[0] == pytest.approx(0, abs=1e-7)
    assert answers.divergence(p, torch.stack([p, p.flip(0)]))[1] > 0.5
