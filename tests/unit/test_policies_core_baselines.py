"""The baselines against brute force over the whole stream: what they hold must not depend on how it was chunked."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes_lab import policies
from hermes_lab.errors import PolicyError
from hermes_lab.policies.base import UNBOUNDED, Policy, ReadPlan
from hermes_lab.policies.random import Random, priorities
from hermes_lab.policies.uniform import Uniform
from tests.fabricate import FakeStream

FIRST = 5  # id of the first video token in made-up streams
PER_FRAME = 4

chunks = st.lists(st.integers(1, 5), min_size=1, max_size=8)
budgets = st.integers(1, 40)


def held(policy: Policy, chunk_frames: list[int], layers: int = 2) -> list[list[int]]:
    """Stream-wide token numbers (0 = first video token) that each layer holds in the end."""
    stream = FakeStream(policy, layers=layers, options={"grid": (2, 2), "dim": 4})
    for frames in chunk_frames:
        stream.feed(frames)
    return [[i - FIRST for i in view.ids[0].tolist()] for view in stream.views]


def tokens_in(chunk_frames: list[int]) -> list[int]:
    return list(range(PER_FRAME * sum(chunk_frames)))


@settings(deadline=None)
@given(chunks)
def test_full_keeps_everything(chunk_frames: list[int]) -> None:
    assert held(policies.get("full"), chunk_frames) == [tokens_in(chunk_frames)] * 2


@settings(deadline=None)
@given(chunks, budgets)
def test_fifo_keeps_the_newest(chunk_frames: list[int], budget: int) -> None:
    expected = tokens_in(chunk_frames)[-budget:]
    assert held(policies.get("fifo", budget_tokens=budget), chunk_frames) == [expected] * 2


@settings(deadline=None)
@given(chunks, budgets)
def test_fifo_by_whole_frames(chunk_frames: list[int], budget: int) -> None:
    """As many of the newest frames as fit; a budget below one frame keeps the newest tokens."""
    everything = tokens_in(chunk_frames)
    whole = budget // PER_FRAME * PER_FRAME
    expected = everything if len(everything) <= budget else everything[-(whole or budget) :]
    policy = policies.get("fifo(whole_frames=True)", budget_tokens=budget)
    assert held(policy, chunk_frames) == [expected] * 2


@settings(deadline=None)
@given(chunks, st.integers(5, 40))
def test_sink_recent_keeps_both_ends(chunk_frames: list[int], budget: int) -> None:
    everything = tokens_in(chunk_frames)
    newest = everything[-(budget - 4) :]
    expected = everything if len(everything) <= budget else everything[:4] + newest
    assert held(policies.get("sink_recent", budget_tokens=budget), chunk_frames) == [expected] * 2


@settings(deadline=None)
@given(chunks, st.integers(1, 6), st.none() | st.integers(1, 30))
def test_recent_frames_holds_the_last_frames(
    chunk_frames: list[int], frames: int, budget: int | None
) -> None:
    policy = policies.get("recent_frames", frames=frames, budget_tokens=budget)
    expected = tokens_in(chunk_frames)[-PER_FRAME * frames :][-(budget or 10_000) :]
    assert held(policy, chunk_frames) == [expected] * 2
    assert policy.read_plan() == ReadPlan(recent_frames=frames, use_cache=False)


def test_recent_frames_has_no_token_limit_of_its_own() -> None:
    assert policies.get("recent_frames", budget_tokens=8).budgets(3) == [UNBOUNDED] * 3


# --- uniform ------------------------------------------------------------------------------------
def even_key(number: int) -> tuple[int, float]:
    """The documented rank: power of two that divides the number, then the golden-ratio scatter."""
    if number == 0:
        return 62, 0.0
    power = 0
    while number % 2 == 0:
        number, power = number // 2, power + 1
    return power, (number // 2 * (5**0.5 - 1) / 2) % 1


@settings(deadline=None)
@given(chunks, st.integers(1, 20))
def test_uniform_by_token_equals_one_decision_over_all(
    chunk_frames: list[int], budget: int
) -> None:
    everything = tokens_in(chunk_frames)
    ranked = sorted(everything[:-1], key=lambda n: even_key(n + FIRST), reverse=True)
    expected = sorted([everything[-1], *ranked[: budget - 1]])
    policy = Uniform(by="token", budget_tokens=budget)
    assert held(policy, chunk_frames) == [expected] * 2


@settings(deadline=None)
@given(chunks, st.integers(4, 40))
def test_uniform_by_frame_equals_one_decision_over_all(
    chunk_frames: list[int], budget: int
) -> None:
    total = sum(chunk_frames)
    ranked = sorted(range(total - 1), key=even_key, reverse=True)
    frames = sorted([total - 1, *ranked[: budget // PER_FRAME - 1]])
    if total * PER_FRAME <= budget:
        frames = list(range(total))
    expected = [PER_FRAME * f + i for f in frames for i in range(PER_FRAME)]
    assert held(Uniform(budget_tokens=budget), chunk_frames) == [expected] * 2


def test_uniform_keeps_the_newest_tokens_of_a_frame_too_large() -> None:
    assert held(Uniform(budget_tokens=3), [2, 1]) == [[9, 10, 11]] * 2


@settings(deadline=None)
@given(st.integers(3, 60), st.integers(3, 20))
def test_uniform_gaps_differ_by_at_most_a_factor_of_two(frames: int, slots: int) -> None:
    """Between the kept frames, the newest (always kept) left aside."""
    kept = held(Uniform(budget_tokens=PER_FRAME * slots), [1] * frames, layers=1)[0]
    numbers = sorted({token // PER_FRAME for token in kept} - {frames - 1})
    gaps = {b - a for a, b in itertools.pairwise(numbers)}
    assert not gaps or max(gaps) <= 2 * min(gaps)
    assert all(math.log2(gap).is_integer() for gap in gaps)


# --- random -------------------------------------------------------------------------------------
@settings(deadline=None)
@given(chunks, budgets, st.integers(0, 2**40), st.booleans())
def test_random_equals_one_draw_over_all(
    chunk_frames: list[int], budget: int, seed: int, shared: bool
) -> None:
    """The top priorities of the whole stream, whatever the chunks were; layers draw apart unless shared."""
    everything = tokens_in(chunk_frames)
    policy = Random(budget_tokens=budget, seed=seed, shared=shared)
    got = held(policy, chunk_frames)
    for layer, kept in enumerate(got):
        draw = priorities(torch.tensor([everything]) + FIRST, seed, 0 if shared else layer + 1)
        ranked = sorted(everything, key=lambda n, d=draw: (d[0, n].item(), n), reverse=True)
        assert kept == sorted(ranked[:budget])
    if shared:
        assert got[0] == got[1]


def test_random_priorities_are_uniform_and_independent() -> None:
    """Mean, spread and correlation over 100 000 ids, across neighbours, layers and seeds; five-sigma bounds."""
    count = 100_000
    ids = torch.arange(count)[None]
    draws = [priorities(ids, seed, layer)[0] for seed, layer in ((0, 1), (0, 2), (1, 1))]
    for draw in draws:
        assert draw.min() >= 0
        assert draw.max() < 1
        counts = torch.histc(draw, bins=20, min=0, max=1)
        expected = count / 20
        assert (counts - expected).abs().max() < 5 * expected**0.5
    pairs = [(draws[0], draws[1]), (draws[0], draws[2]), (draws[0][1:], draws[0][:-1])]
    for a, b in pairs:
        assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 5 / count**0.5


def test_random_keeps_old_and_new_tokens_alike() -> None:
    """Over 300 seeds each of 24 tokens survives a quarter of the time, after six compressions."""
    seeds, counts = 300, torch.zeros(24)
    for seed in range(seeds):
        for number in held(Random(budget_tokens=6, seed=seed), [1] * 6, layers=1)[0]:
            counts[number] += 1
    sigma = (seeds * 0.25 * 0.75) ** 0.5
    assert (counts - seeds * 0.25).abs().max() < 5 * sigma


# --- nonsense -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("full(budget_tokens=8)", "takes no budget"),
        ("fifo(budget_tokens=0)", "budget_tokens.*at least 1, got 0"),
        ("fifo(budget_tokens=-3)", "got -3"),
        ("fifo(budget_tokens=2.5)", "whole number"),
        ("fifo(budget_tokens=True)", "whole number"),
        ("uniform(by=row)", "one of 'frame', 'token', got 'row'"),
        ("random(seed=-1)", "at least 0"),
        ("sink_recent(budget_tokens=4)", "above its 4 sink tokens"),
        ("recent_frames(frames=0)", "at least 1"),
    ],
)
def test_nonsense_is_refused(spec: str, words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        policies.get(spec)
