"""What rival policies read at a question, and how they store it, against slow literal versions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hermes_lab.errors import PolicyError
from hermes_lab.policies import get
from hermes_lab.policies.base import LayerView, RecallView
from hermes_lab.policies.parts.blocks import frame_blocks, owners
from hermes_lab.policies.parts.quantised import GroupQuantised
from tests.fabricate import layer_view


def asked(view: LayerView, seed: int = 0, rows: int = 3) -> RecallView:
    rng = torch.Generator().manual_seed(seed)
    return RecallView(torch.randn(view.query_heads, rows, 8, generator=rng), view)


def frames_of(view: LayerView, found: Tensor) -> list[int]:
    """The frames of recalled tokens, each of which must be whole."""
    frame = view.frame[0].tolist()
    frames = sorted({frame[j] for j in found[0].tolist()})
    assert found[0].tolist() == [j for j in range(view.tokens) if frame[j] in frames]
    return frames


def frame_scores(question: RecallView, keys: Tensor, *, cosine: bool) -> dict[int, float]:
    """q̄ · r_b for each frame, heads concatenated and KV heads repeated for their query heads."""
    view = question.view
    query = torch.cat([question.queries[h].mean(0) for h in range(view.query_heads)]).double()
    group = view.query_heads // view.kv_heads
    scores: dict[int, float] = {}
    for frame in sorted(set(view.frame[0].tolist())):
        places = [j for j in range(view.tokens) if view.frame[0, j] == frame]
        mean = [keys[h // group, places].mean(0) for h in range(view.query_heads)]
        key = torch.cat(mean).double()
        scores[frame] = float(query @ key)
        if cosine:
            scores[frame] /= float(query.norm() * key.norm())
    return scores


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("cosine", [True, False])
def test_rekv_retrieves_the_best_frames(axes: int, cosine: bool) -> None:
    view = layer_view(frames=9, axes=axes, keep=30, seed=2)
    question = asked(view)
    found = get("rekv", recall_frames=4, cosine=cosine).recall(question)
    scores = frame_scores(question, view.keys_unrotated(), cosine=cosine)
    best = sorted(scores, key=lambda f: (-scores[f], -f))[:4]
    assert frames_of(view, found) == sorted(best)


def test_rekv_retrieves_units_of_frames_by_their_mean() -> None:
    view = layer_view(frames=9, seed=4)
    question = asked(view)
    found = get("rekv", recall_frames=4, unit_frames=2).recall(question)
    scores = frame_scores(question, view.keys_unrotated(), cosine=False)
    units = [[f for f in (2 * u, 2 * u + 1) if f < 9] for u in range(5)]
    means = [sum(scores[f] for f in unit) / len(unit) for unit in units]
    best = sorted(range(5), key=lambda u: (-means[u], -u))[:2]
    assert frames_of(view, found) == sorted(f for u in best for f in units[u])


def test_rekv_reads_all_of_a_short_stream_and_survives_an_empty_one() -> None:
    view = layer_view(frames=3)
    assert get("rekv").recall(asked(view)).shape == (1, 12)
    assert get("rekv").recall(asked(layer_view(frames=0))) is None


def test_streamingtom_retrieves_groups_by_cosine_of_unrotated_keys() -> None:
    view = layer_view(frames=8, seed=6)
    question = asked(view)
    policy = get("streamingtom", frame_tokens=4, recall_tokens=10)  # three groups of four
    scores = frame_scores(question, view.keys_unrotated(), cosine=True)
    rotated = frame_scores(question, view.keys, cosine=True)
    best = sorted(scores, key=lambda f: (-scores[f], -f))[:3]
    assert set(best) != set(sorted(rotated, key=lambda f: (-rotated[f], -f))[:3])
    assert frames_of(view, policy.recall(question)) == sorted(best)


@pytest.mark.parametrize("matching", ["cosine", "standardised"])
def test_streamkv_recalls_frames_by_their_match(matching: str) -> None:
    view = layer_view(frames=8, seed=6)
    question = asked(view)
    scores = frame_scores(question, view.keys_unrotated(), cosine=matching == "cosine")
    best = sorted(scores, key=lambda f: (-scores[f], -f))[:2]
    policy = get("streamkv", recall_frames=2, matching=matching)
    assert frames_of(view, policy.recall(question)) == sorted(best)


def test_livevlm_reads_the_short_term_and_the_best_pages() -> None:
    view = layer_view(frames=8, seed=8)  # 32 tokens: five pages of five, one of three, four newest
    question = asked(view)
    policy = get("livevlm", budget_tokens=16, short_share=0.25, page_tokens=5, recall_share=0.4)
    found = policy.recall(question)
    plain = view.keys_unrotated()
    pages = [list(range(i, min(i + 5, 28))) for i in range(0, 28, 5)]
    score = [0.0] * 6
    for h in range(4):
        for r in range(3):
            logits = torch.stack(
                [question.queries[h, r] @ plain[h // 2, page].mean(0) / 8**0.5 for page in pages]
            )
            for p, weight in enumerate(logits.softmax(0).tolist()):
                score[p] += weight / 12
    best = sorted(range(6), key=lambda p: (-score[p], -p))[:3]  # 40 % of six pages, rounded up
    assert found[0].tolist() == [*sorted(j for p in best for j in pages[p]), 28, 29, 30, 31]
    assert get("livevlm", recall_share=1.0).recall(question) is None


@pytest.mark.parametrize("stride", [2, 3])
def test_dscache_thins_the_cumulative_cache(stride: int) -> None:
    view = layer_view(frames=11)
    policy = get("dscache", stride=stride, recent_frames=4)
    past = list(range(7))
    kept = [f for i, f in enumerate(past) if i >= 7 % stride and (i - 7 % stride) % stride == 0]
    assert frames_of(view, policy.recall(asked(view))) == [*kept, 7, 8, 9, 10]
    assert policy.recalls
    assert not get("dscache").recalls
    plan = policy.read_plan()
    assert (plan.recent_frames, plan.use_cache, plan.replaces) == (4, True, True)


def test_dscache_slides_over_whole_frames() -> None:
    view = layer_view(frames=11)
    policy = get("dscache", context_frames=5, recent_frames=2)
    kept = policy.select(policy.score(view), 10**6, view)
    assert frames_of(view, kept) == list(range(4, 11))


# --- blocks ---------------------------------------------------------------------------------------
def test_tokens_without_a_frame_go_with_the_frame_they_precede() -> None:
    frame = torch.tensor([-1, 0, 0, -1, -1, 2, 2, -1])
    assert owners(frame).tolist() == [0, 0, 0, 2, 2, 2, 2, 2]
    blocks = frame_blocks(frame)
    assert blocks.frame.tolist() == [0, 2]
    assert blocks.sizes.tolist() == [3, 5]
    assert owners(torch.tensor([-1, -1])).tolist() == [-1, -1]


# --- storage ----------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(
    bits=st.sampled_from([2, 4, 8]),
    heads=st.integers(1, 3),
    groups=st.lists(st.integers(-1, 4), min_size=1, max_size=30),
    dim=st.integers(1, 9),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 99),
)
def test_round_trip_is_within_half_a_step(
    bits: int, heads: int, groups: list[int], dim: int, scale: float, seed: int
) -> None:
    """Each number returns to the nearest of 2^bits levels between the extremes of its head, group and channel."""
    rng = torch.Generator().manual_seed(seed)
    states = scale * torch.randn(heads, len(groups), dim, generator=rng)
    group = torch.tensor(groups)
    codec = GroupQuantised(bits)
    stored = codec.encode(states, group)
    back = codec.decode(stored)
    assert back.shape == states.shape
    assert back.dtype == states.dtype
    for g in set(groups):
        own = states[:, group == g]
        step = (own.amax(1) - own.amin(1)) / (2**bits - 1)
        error = (back[:, group == g] - own).abs()
        limit = 0.501 * step.clamp_min(1e-8) + 1e-5 * own.abs().amax(1)
        assert bool((error <= limit[:, None]).all())
    again = codec.decode(codec.encode(back, group))
    torch.testing.assert_close(again, back, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_four_bits_take_about_a_quarter_of_half_precision(dtype: torch.dtype) -> None:
    states = torch.randn(2, 500, 64).to(dtype)
    codec = GroupQuantised(4)
    stored = codec.encode(states, torch.arange(500) // 50)
    assert codec.decode(stored).dtype == dtype
    assert stored.codes.numel() == states.numel() // 2
    ratio = codec.stored_bytes(stored) / (states.numel() * 2)
    assert ratio < (0.45 if dtype is torch.float32 else 0.36)


def test_storage_takes_two_four_or_eight_bits() -> None:
    with pytest.raises(PolicyError, match="2, 4 or 8 bits"):
        GroupQuantised(3)
    assert get("streamingtom", bits=2).codec() == GroupQuantised(2)


def test_recall_sees_what_the_codec_left() -> None:
    """Retrieval on decoded keys finds nearly what it finds on the originals: the codec is not what decides."""
    view = layer_view(frames=12, grid=(4, 4), dim=8, seed=3)
    question = asked(view)
    codec = GroupQuantised(4)
    coarse = replace(view, keys=codec.decode(codec.encode(view.keys, view.frame[0])))
    policy = get("streamingtom", frame_tokens=16, recall_tokens=96)
    exact = set(frames_of(view, policy.recall(question)))
    stored = set(frames_of(view, policy.recall(replace(question, view=coarse))))
    assert len(exact & stored) >= 5
