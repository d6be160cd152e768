"""Estimators recover the parameters of synthetic attention, and their intervals cover them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.estimators import agreement, changepoint, concentration, periodicity, recency
from analysis.statistics import cluster_bootstrap
from hermes_lab.policies.parts.scoring import edges_of

# --- recency -----------------------------------------------------------------------------------
AGES = np.arange(48)


def decaying(rate, amplitude=3.0, floor=0.6, spike=2.0):
    rate = np.asarray(rate)[..., None]
    return floor + amplitude * np.exp(-rate * AGES) + spike * (AGES == 0)


@pytest.mark.parametrize("rate", [0.02, 0.08, 0.3, 0.9])
def test_forgetting_rate_is_recovered_exactly_without_noise(rate):
    fit = recency.fit_recency(decaying(rate))
    assert fit.rate == pytest.approx(rate, rel=0.01)
    assert fit.half_life_frames == pytest.approx(np.log(2) / rate, rel=0.01)
    assert fit.amplitude == pytest.approx(3.0, rel=0.02)
    assert fit.floor == pytest.approx(0.6, abs=0.05)
    assert fit.spike == pytest.approx(2.0, abs=0.05)
    assert fit.r2 > 0.999
    assert fit.evidence > 6


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.6])
def test_forgetting_rate_is_recovered_within_ten_percent_under_noise(rate):
    rng = np.random.default_rng(0)
    noisy = decaying(np.full(300, rate)) + 0.1 * rng.normal(size=(300, 48))
    assert np.median(recency.fit_recency(noisy).rate) == pytest.approx(rate, rel=0.1)


def test_fit_agrees_with_an_independent_optimiser():
    from scipy.optimize import curve_fit

    rng = np.random.default_rng(1)
    y = decaying(0.15) + 0.1 * rng.normal(size=48)

    def tail(age, rate, amplitude, floor):
        return floor + amplitude * np.exp(-rate * age)

    expected, _ = curve_fit(tail, AGES[1:], y[1:], p0=(0.3, 1, 1))
    fit = recency.fit_recency(y)
    assert [fit.rate, fit.amplitude, fit.floor] == pytest.approx(expected, rel=0.01)


def test_interval_of_the_rate_covers():
    rng = np.random.default_rng(2)
    rates = np.exp(np.log(0.2) + 0.3 * rng.normal(size=(16, 200)))
    profiles = decaying(rates) + 0.05 * rng.normal(size=(16, 200, 48))
    log_rates = np.log(recency.fit_recency(profiles).rate)
    interval = cluster_bootstrap(log_rates, draws=800, seed=0)
    covered = ((interval.low <= np.log(0.2)) & (np.log(0.2) <= interval.high)).mean()
    assert 0.90 <= covered <= 0.98


def test_a_spike_without_decay_is_not_reported_as_forgetting():
    rng = np.random.default_rng(3)
    y = decaying(np.full(200, 0.1), amplitude=0.0, spike=8.0) + 0.1 * rng.normal(size=(200, 48))
    fit = recency.fit_recency(y)
    assert np.mean(fit.evidence > 6) < 0.05
    assert fit.spike.mean() == pytest.approx(8.0, abs=1.0)


def test_uniform_and_renormalised_profiles():
    grid = np.ones((2, 10, 4)) / 400  # most of the attention is elsewhere
    profile = recency.age_profile(grid)
    assert profile == pytest.approx(np.ones((2, 10)))
    assert recency.recency_index(profile) == pytest.approx([0, 0])
    assert np.isnan(recency.fit_recency(profile).rate).all()
    newest = np.zeros((10, 4))
    newest[-1] = 1
    assert recency.recency_index(recency.age_profile(newest)) == pytest.approx(1)
    assert recency.newest_share(recency.age_profile(newest)) == pytest.approx(10)
    with pytest.raises(ValueError, match="5 frames"):
        recency.fit_recency(np.ones(4))


# --- periodicity -------------------------------------------------------------------------------
def rhythmic(
    rng, strength, shape=(), frames=24, slots=16, slot=5, decay=0.1, stepwise=False, noise=0.3
):
    logs = noise * rng.normal(size=(*shape, frames, slots))
    age = np.arange(frames)[:, None] + (0 if stepwise else np.arange(slots) / slots)
    logs += decay * age
    logs[..., slot] += strength
    weights = np.exp(logs)
    return weights / weights.sum((-2, -1), keepdims=True)


@pytest.mark.parametrize("slots", [9, 16, 49])
@pytest.mark.parametrize(("decay", "stepwise"), [(0.0, False), (0.3, False), (0.3, True)])
def test_rhythm_phase_and_share_are_recovered(slots, decay, stepwise):
    rng = np.random.default_rng(slots)
    grid = rhythmic(rng, 1.5, (40,), slots=slots, decay=decay, stepwise=stepwise)
    found = periodicity.periodicity(grid)
    assert (found.slot == 5).all()
    assert (found.phase_lock > 0.8).all()
    # Variance of the planted bump over all variance: what an autocorrelation at the period must be.
    bump = 1.5**2 * (1 - 1 / slots) / slots
    assert found.acf.mean() == pytest.approx(bump / (bump + 0.09), abs=0.06)
    assert found.spectrum.mean() > 3
    share = np.exp(1.5) * slots / (np.exp(1.5) + slots - 1)
    assert periodicity.anchor_share(grid, 5).mean() == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize(("decay", "stepwise"), [(0.0, False), (0.4, False), (0.4, True)])
def test_no_rhythm_in_noise_or_in_forgetting_alone(decay, stepwise):
    rng = np.random.default_rng(0)
    found = periodicity.periodicity(rhythmic(rng, 0.0, (200,), decay=decay, stepwise=stepwise))
    assert abs(found.acf.mean()) < 0.03
    assert abs(found.prominence.mean()) < 0.03
    assert found.spectrum.mean() == pytest.approx(1, abs=0.15)
    assert found.phase_lock.mean() < 0.25


def test_another_period_is_not_taken_for_the_frame():
    rng = np.random.default_rng(1)
    logs = 0.3 * rng.normal(size=(60, 24 * 16))
    logs[:, ::11] += 1.5
    found = periodicity.periodicity(np.exp(logs).reshape(60, 24, 16))
    assert found.acf.mean() < 0.05
    assert found.spectrum.mean() < 1.3


def test_interval_of_the_rhythm_covers():
    rng = np.random.default_rng(4)
    strength = 1.2 + 0.2 * rng.normal(size=(14, 200))
    logs = 0.4 * rng.normal(size=(14, 200, 16, 16))
    logs[..., 3] += strength[..., None]
    share = np.log(periodicity.anchor_share(np.exp(logs), 3))
    truth = share.mean()
    interval = cluster_bootstrap(share, draws=800, seed=0)
    assert 0.90 <= ((interval.low <= truth) & (truth <= interval.high)).mean() <= 0.98


def test_autocorrelation_matches_the_definition():
    x = np.random.default_rng(0).normal(size=70)
    c = x - x.mean()
    expected = [(c[: 70 - k] * c[k:]).mean() / (c**2).mean() for k in (0, 3, 16)]
    assert periodicity.autocorrelation(x, [0, 3, 16]) == pytest.approx(expected)
    assert periodicity.autocorrelation(np.ones(70), [16]) == pytest.approx([0])


def test_phase_match_needs_the_same_slot_over_contents():
    rng = np.random.default_rng(5)
    fixed = periodicity.slot_profile(rhythmic(rng, 1.5, (12,)))
    assert periodicity.phase_match(fixed[6:], fixed[:6].mean(0)).mean() > 0.9
    moving = np.stack(
        [periodicity.slot_profile(rhythmic(rng, 1.5, slot=int(s))) for s in rng.permutation(12)]
    )
    # Each stream is as rhythmic as before, yet the phase does not carry over.
    assert periodicity.phase_match(moving[6:], moving[:6].mean(0)).mean() < 0.2


def test_rounding_has_no_rhythm():
    grid = np.tile(1 + 1e-7 * np.random.default_rng(0).random(16), (20, 1)) / 320
    assert periodicity.periodicity(grid).acf == 0
    assert periodicity.periodicity(grid).spectrum == 1


def test_tiny_grids_are_refused():
    with pytest.raises(ValueError, match="3 frames of 4"):
        periodicity.periodicity(np.ones((2, 16)))


# --- change points -----------------------------------------------------------------------------
def banded(rng, edges, streams=12, layers=14, features=3, noise=0.4, levels=(0, 1.5, -1)):
    curve = np.zeros((layers, features))
    for level, start, end in zip(levels, (0, *edges), (*edges, layers), strict=True):
        curve[start:end] = level
    return curve + noise * rng.normal(size=(streams, layers, features))


def test_best_edges_match_a_literal_search():
    curve = np.random.default_rng(0).normal(size=(9, 2))

    def sse(*edges):
        parts = np.split(curve, edges)
        return sum(((p - p.mean(0)) ** 2).sum() for p in parts)

    options = {(a, b): sse(a, b) for a in range(1, 9) for b in range(a + 1, 9)}
    edges, error = changepoint.fit_steps(curve, 2)
    assert tuple(edges) == min(options, key=options.get)
    assert error == pytest.approx(min(options.values()))
    one, _ = changepoint.fit_steps(curve, 1)
    assert one[0] == min(range(1, 9), key=sse)
    assert changepoint.fit_steps(curve, 0)[1] == pytest.approx(sse())


@pytest.mark.parametrize("edges", [(1, 10), (4, 9), (2, 12)])
def test_partition_finds_the_edges(edges):
    found = changepoint.find_partition(banded(np.random.default_rng(1), edges), draws=300)
    assert found.edges == edges
    assert found.support > 0.8
    assert found.models.explained["two_changes"] > 0.9
    assert found.models.explained["two_changes"] > found.models.explained["line"] + 0.2
    assert [list(b) for b in found.bands] == [
        list(range(edges[0])),
        list(range(*edges)),
        list(range(edges[1], 14)),
    ]


def test_interval_of_the_edges_covers():
    rng = np.random.default_rng(2)
    hits = []
    for draw in range(200):
        values = banded(rng, (4, 9), streams=10, features=1, noise=1.2)
        found = changepoint.find_partition(values, draws=200, seed=draw)
        hits.append((found.intervals.low <= (4, 9)) & (found.intervals.high >= (4, 9)))
    # Edges are whole layers, so intervals are wider than nominal rather than narrower.
    assert np.mean(hits) >= 0.90


def test_a_gradual_trend_is_not_called_bands():
    rng = np.random.default_rng(3)
    values = np.linspace(0, 3, 14)[:, None] + 0.3 * rng.normal(size=(12, 14, 2))
    models = changepoint.find_partition(values, draws=100).models
    assert models.explained["line"] > models.explained["two_changes"]
    assert models.error["line"].mean() < models.error["two_changes"].mean()


def test_paper_bands():
    assert edges_of(28) == (2, 19)
    assert edges_of(8) == (0, 5)


# --- concentration -----------------------------------------------------------------------------
def test_entropy_and_top_mass_at_the_extremes():
    uniform, single = np.ones(37), np.eye(37)[3]
    assert concentration.entropy_ratio(uniform) == pytest.approx(1)
    assert concentration.entropy_ratio(single) == pytest.approx(0)
    assert concentration.top_mass(uniform, 0.05) == pytest.approx(0.05)
    assert concentration.top_mass(single, 0.05) == pytest.approx(1)
    assert concentration.entropy_ratio(np.ones((2, 3, 9))).shape == (2, 3)
    w = np.random.default_rng(0).random(37)
    assert concentration.entropy_ratio(w) == pytest.approx(stats.entropy(w) / np.log(37))


def test_massive_activation_sinks():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(50, 1024))
    hidden[[0, 12, 31], 7] = 400.0
    dimensions = concentration.sink_dimensions(hidden[0])
    assert dimensions.tolist() == [7]
    assert np.flatnonzero(
        concentration.massive_tokens(hidden, dimensions, threshold=9)
    ).tolist() == [
        0,
        12,
        31,
    ]
    assert concentration.sink_dimensions(hidden[1]).size == 0
    assert not concentration.massive_tokens(hidden, []).any()


def test_share_of_a_token_set():
    weights = np.array([[0.5, 0.25, 0.25, 0.0], [0.25] * 4])
    share, lift = concentration.token_set_share(weights, np.array([True, False, False, False]))
    assert share == pytest.approx([0.5, 0.25])
    assert lift == pytest.approx([2.0, 1.0])


# --- agreement ---------------------------------------------------------------------------------
def test_rank_correlation_matches_scipy_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (4, 30)), rng.integers(0, 5, (4, 30))
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert agreement.spearman(a, b) == pytest.approx(expected)
    assert np.isnan(agreement.spearman(np.ones(5), np.arange(5)))


def test_top_overlap_and_chance():
    rng = np.random.default_rng(1)
    a = rng.random((3000, 40))
    assert agreement.top_overlap(a, a, 7) == pytest.approx(np.ones(3000))
    other = rng.random((3000, 40))
    assert agreement.top_overlap(a, other, 7).mean() == pytest.approx(7 / 40, abs=0.01)
    chance = agreement.jaccard(agreement.top_mask(a, 7), agreement.top_mask(other, 7)).mean()
    assert chance == pytest.approx(agreement.chance_jaccard(7, 40), abs=0.01)
    assert agreement.top_mask([1.0, 3.0, 3.0, 2.0], 1).tolist() == [False, False, True, False]
