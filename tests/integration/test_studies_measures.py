"""What the studies measure agrees with the stock model and with literal computations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from analysis import contribution_measures, information_flow, isolation, observe
from analysis.answers import Target
from analysis.consequence import deal
from analysis.planted import Plant, planted_lab
from analysis.streams import Grid, Stream, development, encode, feed, held_out
from hermes_lab.lens import knockout
from hermes_lab.stream.question_pass import question_pass
from hermes_lab.stream.session import StreamSession

PLANT = Plant(layers=4)
QUESTION = "what is the scene"


@pytest.fixture(scope="module")
def setting():
    lab = planted_lab(PLANT)
    with torch.no_grad():
        for layer in lab.adapter.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                generator = torch.Generator().manual_seed(1)
                projection.weight += 0.1 * torch.randn(projection.weight.shape, generator=generator)
    stream = held_out(1, 32)[0]
    segments = encode(lab, stream, chunk_frames=8)
    session = feed(lab, segments)
    return lab, stream, segments, session, Grid.of(session)


@pytest.fixture(scope="module")
@torch.no_grad()
def eager(setting):
    """Attention of the stock model on the whole sequence, [layer, head, row, key], rows of the question."""
    lab, _, segments, _, _ = setting
    adapter = lab.adapter
    question = adapter.question(QUESTION)
    embeds = torch.cat([adapter.prefix().embeds, *(s.embeds for s in segments), question.embeds])
    stock = type(adapter.model)(copy.deepcopy(adapter.model.config))
    stock.load_state_dict(adapter.model.state_dict())
    stock.eval().set_attn_implementation("eager")
    out = stock.model.language_model(inputs_embeds=embeds[None], output_attentions=True)
    return torch.stack(out.attentions)[:, 0, :, -len(question) :].double().numpy()


def test_question_rows_are_the_stock_models_attention(setting, eager):
    _, _, _, session, grid = setting
    last, mean, text = observe.question_rows(session, grid, QUESTION)
    assert last == pytest.approx(eager[:, :, -1][..., grid.ids], abs=1e-6)
    assert mean == pytest.approx(eager.mean(2)[..., grid.ids], abs=1e-6)
    assert text["first"] == pytest.approx(eager[:, :, -1, 0], abs=1e-6)
    assert text["text"] + last.sum((-2, -1)) == pytest.approx(np.ones_like(text["text"]), abs=1e-5)


def test_grids_hold_every_visual_token_once_in_order(setting):
    _, stream, _, session, grid = setting
    assert grid.ids.shape == (stream.frames, PLANT.tokens_per_frame)
    assert (np.diff(grid.ids.ravel()) == 1).all()
    frame = session.table.column("frame")[grid.ids]
    assert (frame == np.arange(stream.frames)[:, None]).all()


def test_position_only_rows_forget_content_and_keep_the_planted_decay(setting):
    lab = planted_lab(PLANT)
    _, _, segments, _, _ = setting
    session = feed(lab, segments)
    grid = Grid.of(session)
    alone = observe.position_only_grid(session, grid, QUESTION, seed=0)
    last, _, _ = observe.question_rows(session, grid, QUESTION)
    # Recency is positional, so it stays to the last digit; anchors are content, so they go.
    assert alone[0, 0].sum(-1) == pytest.approx(last[0, 0].sum(-1), rel=1e-3)
    anchors = observe.features(last)["slots"][-1, 0, PLANT.slot]
    assert anchors > 4
    assert observe.features(alone)["slots"][-1, 0, PLANT.slot] < 0.4 * anchors


@torch.no_grad()
def test_contributions_match_explicit_products(setting):
    lab, stream, _, session, grid = setting
    asked = stream.questions(1)[0]
    target = Target.of(session, asked)
    tokens = contribution_measures.token_measures(session, grid, asked.text, target)
    layer, head = 2, 3
    names = [f"blocks.{layer}.attn.hook_pattern", f"blocks.{PLANT.layers - 1}.hook_resid_post"]
    seen = question_pass(session, asked.text, names)
    weights = seen.activations[names[0]][0, head, -1]
    value = seen.states[layer].values[0, head // 2]
    out = lab.adapter.layers[layer].self_attn.o_proj.weight[:, head * 16 : (head + 1) * 16]
    final = seen.activations[names[1]][0, -1]
    norm = lab.adapter.decoder.norm.weight
    unembed = lab.adapter.head.weight
    toward = unembed[target.answer] - unembed[list(target.others)].mean(0)
    for frame, slot in ((0, 0), (3, 7), (31, 15)):
        j = int(grid.ids[frame, slot])
        vector = weights[j] * (out @ value[j])
        expected = (
            weights[j],
            vector.norm(),
            vector @ (toward * norm) / final.square().mean().sqrt(),
        )
        got = tokens[:, layer, head, frame, slot]
        assert got == pytest.approx([float(e) for e in expected], rel=2e-3, abs=1e-7)


def test_captured_use():
    drop = np.zeros(20)
    drop[[3, 7]] = 3.0, 1.0
    drop[5] = -9.0
    measures = np.stack([drop, -drop, np.arange(20.0)])
    assert contribution_measures.captured(measures, drop) == pytest.approx([1.0, 0.0, 0.0])
    assert np.isnan(contribution_measures.captured(measures, np.full(20, 1e-3))).all()


def test_isolated_frames_match_a_stock_model_under_an_explicit_mask(setting):
    lab, _, segments, _, grid = setting
    layers = [0, 1]
    session = isolation.isolated(lab, segments, layers, random=False, seed=0)
    adapter = lab.adapter
    question = adapter.question(QUESTION)
    embeds = torch.cat([adapter.prefix().embeds, *(s.embeds for s in segments), question.embeds])
    frame = np.full(len(embeds), -1)
    frame[grid.ids] = np.arange(len(grid.ids))[:, None]
    causal = torch.full((len(embeds), len(embeds)), -torch.inf).triu(1)
    foreign = (frame[:, None] != frame) & (frame[:, None] >= 0) & (frame >= 0)
    blind = causal.masked_fill(torch.as_tensor(foreign), -torch.inf)
    stock = type(adapter.model)(copy.deepcopy(adapter.model.config))
    stock.load_state_dict(adapter.model.state_dict())
    stock.eval().set_attn_implementation("eager")
    for index, block in enumerate(stock.model.language_model.layers):
        mask = blind if index in layers else causal
        block.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, mask=mask: (
                args,
                kwargs | {"attention_mask": mask[None, None]},
            ),
            with_kwargs=True,
        )
    with torch.no_grad():
        expected = stock(inputs_embeds=embeds[None]).logits[0, -1]
    got = session.question_logits(QUESTION)[-1]
    assert torch.allclose(got, expected, atol=1e-4)
    untouched = feed(lab, segments).question_logits(QUESTION)[-1]
    assert not torch.allclose(got, untouched, atol=1e-2)


def test_the_matched_mask_shows_as_many_tokens_and_never_the_future():
    key = torch.tensor([-1, -1, *np.repeat(np.arange(5), 4)])
    query = key[-8:]
    own = isolation.blind_mask(query, key, None)
    random = isolation.blind_mask(query, key, torch.Generator().manual_seed(0))
    past = torch.arange(len(key))[None] <= torch.arange(len(key) - 8, len(key))[:, None]
    assert ((~own & past).sum(1) == (~random & past).sum(1)).all()
    assert not random[:, :2].any()  # text stays visible
    itself = torch.arange(8), torch.arange(len(key) - 8, len(key))
    assert not random[itself].any()
    assert (own != random)[past].any()


def test_depth_summaries():
    lens = np.array([[0.0, 1.0, 6.0, 10.0], [8.0, 9.0, 9.5, 10.0]])
    assert information_flow._half_depth(lens) == pytest.approx([0.75, 0.25])
    effect = np.zeros((2, 6))
    effect[0, 0], effect[1, 5] = 1.0, 2.0
    centre = information_flow._centre(effect, 12)
    assert centre == pytest.approx([1 / 12, 11 / 12])


def test_dealt_bands_keep_their_numbers():
    paper = ("shallow", *("middle",) * 4, *("deep",) * 2)
    for seed in range(20):
        dealt = deal(paper, seed)
        assert sorted(dealt) == sorted(paper)
        assert dealt != paper


def test_streams_are_apart_seeded_and_answerable():
    dev, test = development(3, 32), held_out(3, 32)
    assert not {s.seed for s in dev} & {s.seed for s in test}
    for stream in (*dev, *test):
        assert {q.horizon for q in stream.questions(1)} == {"now", "recent", "long"}
        assert stream.questions(2) == Stream(stream.seed, 32).questions(2)
        assert len({q.text for q in stream.questions(3)}) == len(stream.questions(3))
    halved = Stream(test[0].seed, 32, stride=2)
    assert np.array_equal(halved.images()[-1], test[0].images()[-1])
    assert len(halved.images()) == 16


def test_knocking_out_in_a_session_leaves_no_trace(setting):
    _, _, _, session, grid = setting
    before = session.question_logits(QUESTION)
    with knockout(session, grid.ids[-1], layers=[0]):
        during = session.question_logits(QUESTION)
    assert torch.equal(session.question_logits(QUESTION), before)
    assert not torch.equal(during, before)
    assert isinstance(session, StreamSession)
