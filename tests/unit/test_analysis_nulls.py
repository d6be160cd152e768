"""Nulls change what they say they change, and nothing else; the planted model holds its plants."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from analysis import nulls
from analysis.estimators import periodicity, recency
from analysis.planted import MARK, Plant, planted_model
from hermes_lab.errors import LabError
from hermes_lab.models.llava_onevision import LlavaOnevision

PREFIX, FRAMES, QUESTION = 5, 24, 9
PLANT = Plant()


@pytest.fixture(scope="module")
def adapter():
    return LlavaOnevision(model=planted_model(PLANT), tokenizer=None, name="planted")


def clip(seed=0, frames=FRAMES, still=False):
    rng = np.random.default_rng(seed)
    out = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(frames)]
    return [out[0]] * frames if still else out


def segment_of(adapter, frames):
    return adapter.encode(frames, [float(i) for i in range(len(frames))])


@torch.no_grad()
def attention(adapter, visual):
    """Eager attention of the last question token on the frames, [layer, head, frame, slot]."""
    model = adapter.model
    model.set_attn_implementation("eager")
    embed = model.get_input_embeddings()
    text = embed(torch.arange(20, 20 + PREFIX + QUESTION))
    inputs = torch.cat([text[:PREFIX], visual, text[PREFIX:]])[None]
    output = model.model.language_model(inputs_embeds=inputs, output_attentions=True)
    rows = torch.stack([a[0, :, -1, PREFIX : PREFIX + len(visual)] for a in output.attentions])
    side = adapter.grid_side
    return rows.unflatten(-1, (-1, side**2)).double().numpy()


def grid_of(adapter, frames):
    return attention(adapter, segment_of(adapter, frames).embeds)


def test_planted_recency_is_read_back(adapter):
    fit = recency.fit_recency(recency.age_profile(grid_of(adapter, clip())))
    assert fit.rate[0, :2] == pytest.approx(PLANT.rates_per_frame, rel=0.02)
    assert (fit.r2_tail[0, :2] > 0.999).all()
    assert np.isnan(fit.rate[1:-1]).all()


def test_planted_anchors_are_read_back(adapter):
    grid = grid_of(adapter, clip())
    found = periodicity.periodicity(grid)
    share = periodicity.anchor_share(grid, PLANT.slot)
    assert (found.slot[-1, :2] == PLANT.slot).all()
    assert (found.acf[-1, :2] > 0.95).all()
    assert share[-1, :2] == pytest.approx([PLANT.anchor_share] * 2, rel=0.05)
    assert share[:-1] == pytest.approx(np.ones((PLANT.layers - 1, 4)), abs=0.1)
    assert found.acf[-1, :2].min() > 3 * found.acf[:-1].max()


def test_both_plants_reach_the_output(adapter):
    model, visual = adapter.model, segment_of(adapter, clip()).embeds
    slots = torch.arange(len(visual)) % PLANT.tokens_per_frame
    recent = torch.arange(len(visual)) >= len(visual) - 3 * PLANT.tokens_per_frame
    text = model.get_input_embeddings()(torch.arange(20, 30))

    def logits(changed):
        content = visual.clone()
        content[changed, :MARK] = content[changed, :MARK].flip(0)
        inputs = torch.cat([text[:5], content, text[5:]])[None]
        return model(inputs_embeds=inputs).logits[0, -1]

    with torch.no_grad():
        base = logits(torch.zeros(len(visual), dtype=torch.bool))
        moved_recent = (logits(recent) - base).abs()
        moved_anchor = (logits((slots == PLANT.slot) & ~recent) - base).abs()
    assert moved_recent[0::2].mean() > 3 * moved_anchor[0::2].mean()
    assert moved_anchor[1::2].mean() > moved_anchor[0::2].mean()


def test_random_twin_is_seeded_and_leaves_the_original_alone(adapter):
    before = {k: v.clone() for k, v in adapter.model.state_dict().items()}
    state = torch.random.get_rng_state()
    a, b = nulls.random_twin(adapter, 1), nulls.random_twin(adapter, 1)
    other = nulls.random_twin(adapter, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in adapter.model.state_dict().items())
    weights = [t.model.lm_head.weight for t in (a, b, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert a.family == adapter.family
    assert "seed 1" in a.name


def test_permuted_twin_keeps_each_tensors_values_and_the_vision_tower(adapter):
    twin = nulls.permuted_twin(adapter, 3)
    ours, theirs = dict(twin.model.named_parameters()), dict(adapter.model.named_parameters())
    for name, tensor in theirs.items():
        assert torch.equal(ours[name].flatten().sort().values, tensor.flatten().sort().values)
        if "vision" in name or "projector" in name:
            assert torch.equal(ours[name], tensor)
    assert not torch.equal(ours["lm_head.weight"], theirs["lm_head.weight"])
    frames = clip(frames=2)
    assert torch.equal(twin.encode(frames, [0, 1]).embeds, adapter.encode(frames, [0, 1]).embeds)
    blind = nulls.permuted_twin(adapter, 3, keep_vision=False)
    assert not torch.equal(
        blind.encode(frames, [0, 1]).embeds, adapter.encode(frames, [0, 1]).embeds
    )


def random_rhythm(side, *, still, seeds=4):
    """Mean autocorrelation of random networks at the frame's lag: as fed, and with patches shuffled."""
    base = LlavaOnevision(model=planted_model(Plant(side=side)), tokenizer=None)
    pairs = []
    for seed in range(seeds):
        twin = nulls.random_twin(base, seed)
        segment = segment_of(twin, clip(seed, still=still))
        both = (segment, *nulls.shuffle_segments([segment], seed))
        pairs.append([periodicity.periodicity(attention(twin, s.embeds)).acf.mean() for s in both])
    return np.array(pairs)


def test_a_random_network_repeats_with_the_frame_on_a_still_camera():
    """The trap: a rhythm without any training, well above that of the same network on shuffled patches."""
    fed, shuffled = random_rhythm(6, still=True).T
    assert fed.min() > 0.4
    assert (fed - shuffled).min() > 0.1


def test_rotary_positions_alone_make_a_rhythm_where_frames_are_near_whole_turns():
    """25 tokens are 3.98 turns of RoPE's fastest pair, 16 are 2.55: with no content at all, opposite signs."""
    assert random_rhythm(5, still=False)[:, 1].min() > 0.2
    assert random_rhythm(4, still=False)[:, 1].max() < -0.2


def test_frame_shuffle_keeps_the_frames(adapter):
    frames = clip()
    mixed = nulls.shuffle_frames(frames, 1)
    assert sorted(f.tobytes() for f in mixed) == sorted(f.tobytes() for f in frames)
    assert any(a is not b for a, b in zip(frames, mixed, strict=True))
    assert all(a is b for a, b in zip(nulls.shuffle_frames(frames, 1), mixed, strict=True))


def test_cell_shuffle_moves_whole_cells_differently_in_every_frame():
    frame = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    a, b = nulls.shuffle_cells([frame, frame], 4, 4, seed=0)
    assert not np.array_equal(a, b)
    cells = {frame[r : r + 2, c : c + 2].tobytes() for r in range(0, 8, 2) for c in range(0, 8, 2)}
    assert {
        a[r : r + 2, c : c + 2].tobytes() for r in range(0, 8, 2) for c in range(0, 8, 2)
    } == cells
    with pytest.raises(LabError, match="cannot be cut"):
        nulls.shuffle_cells([frame], 9, 9, seed=0)


def test_cell_shuffle_moves_content_but_segment_shuffle_moves_anchors_too(adapter):
    frames = clip()
    pixels = grid_of(adapter, nulls.shuffle_cells(frames, 4, 4, seed=0))
    assert periodicity.anchor_share(pixels, PLANT.slot)[-1, 0] == pytest.approx(
        PLANT.anchor_share, rel=0.05
    )
    segment = segment_of(adapter, frames)
    (mixed,) = nulls.shuffle_segments([segment], seed=0)
    share = periodicity.anchor_share(attention(adapter, mixed.embeds), PLANT.slot)[-1, 0]
    assert share == pytest.approx(1.0, abs=0.6)
    for f in range(FRAMES):
        here = segment.frame == f
        before = {row.numpy().tobytes() for row in segment.embeds[here]}
        assert {row.numpy().tobytes() for row in mixed.embeds[here]} == before
    assert np.array_equal(mixed.row, segment.row)


def test_content_shuffle_over_the_stream_leaves_positional_recency(adapter):
    frames = clip()
    parts = [segment_of(adapter, frames[:10]), segment_of(adapter, frames[10:])]
    mixed = torch.cat([s.embeds for s in nulls.shuffle_segments(parts, 0, within="stream")])
    before = torch.cat([s.embeds for s in parts])
    assert torch.equal(mixed.sum(1).sort().values, before.sum(1).sort().values)
    fit = recency.fit_recency(recency.age_profile(attention(adapter, mixed)))
    assert fit.rate[0, 0] == pytest.approx(PLANT.rates_per_frame[0], rel=0.02)


def test_patch_shuffle_over_several_chunks_stays_within_frames(adapter):
    frames = clip(frames=6)
    parts = [segment_of(adapter, frames[:2]), segment_of(adapter, frames[2:])]
    mixed = torch.cat([s.embeds for s in nulls.shuffle_segments(parts, 0)])
    before = torch.cat([s.embeds for s in parts])
    for a, b in zip(mixed.split(16), before.split(16), strict=True):
        assert not torch.equal(a, b)
        assert torch.equal(a.sum(1).sort().values, b.sum(1).sort().values)


def test_position_only_is_the_mean_over_all_orders_of_content():
    rng = torch.Generator().manual_seed(0)
    tokens, fixed = 7, 2
    keys = torch.randn(2, tokens, 4, generator=rng)
    keys[:, 4] *= 3  # content: one loud key
    query = torch.randn(4, 3, 4, generator=rng)
    age = torch.arange(tokens - 1, -1, -1.0)

    def rotate(unrotated):  # position enters through one channel
        placed = unrotated.clone()
        placed[..., 3] = -0.3 * age
        return placed

    movable = np.arange(tokens) >= fixed
    causal = torch.zeros(3, tokens)
    causal[0, -1] = -torch.inf

    def literal(order):
        placed = rotate(keys[:, [0, 1, *order]]).repeat_interleave(2, 0)
        return (torch.einsum("qrd,qtd->qrt", query, placed) * 0.5 + causal).softmax(-1)

    expected = torch.stack([literal(o) for o in permutations(range(fixed, tokens))]).mean(0)
    rows = nulls.position_only(
        query, keys, rotate, movable=movable, scaling=0.5, bias=causal, permutations=3000
    )
    assert rows.numpy() == pytest.approx(expected.numpy(), abs=0.02)
    assert (literal(range(fixed, tokens)) - expected).abs().max() > 0.2
    assert (rows[:, 0, -1] == 0).all()


def test_uniform_rows_count_visible_keys_only():
    rows = nulls.uniform_rows(np.array([[True, True, False], [True, False, False]]))
    assert rows.tolist() == [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
