"""Intervals cover, tests reject as often as they say, and both agree with literal computations."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from analysis.stability import ranking_stability
from analysis.statistics import (
    cluster_bootstrap,
    effect_size,
    holm,
    paired_difference,
    ratio_bootstrap,
    sign_flip_test,
)
from hermes_lab.errors import LabError

REPEATS = 400


def coverage(intervals, truth):
    return float(((intervals.low <= truth) & (truth <= intervals.high)).mean())


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize(("streams", "floor"), [(12, 0.90), (40, 0.91)])
def test_interval_covers_the_mean_of_streams(method, streams, floor):
    rng = np.random.default_rng(streams)
    # Questions of one stream share its offset: an interval that resampled questions would be far too narrow.
    offset = rng.normal(size=(streams, REPEATS, 1))
    questions = 3 + offset + 0.3 * rng.normal(size=(streams, REPEATS, 30))
    intervals = cluster_bootstrap(questions.mean(-1), method=method, draws=1000, seed=1)
    assert floor <= coverage(intervals, 3.0) <= 0.98
    naive = questions.std(-1).mean() / np.sqrt(30 * streams)
    assert (intervals.high - intervals.low).mean() > 5 * 2 * naive


def test_bca_covers_a_skewed_mean_better_or_as_well_and_is_asymmetric():
    rng = np.random.default_rng(5)
    values = rng.lognormal(sigma=0.8, size=(40, REPEATS))
    truth = float(np.exp(0.32))
    bca = cluster_bootstrap(values, method="bca", draws=1500, seed=2)
    assert 0.88 <= coverage(bca, truth) <= 0.98
    assert (bca.high - bca.value).mean() > 1.1 * (bca.value - bca.low).mean()


def test_bca_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=25)
    ours = cluster_bootstrap(values, method="bca", draws=20000, seed=0)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=1)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03)


def test_bootstrap_is_seeded_and_leaves_missing_streams_out():
    values = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 4.0], [7.0, 6.0]] * 3) ** 1.3
    a, b = cluster_bootstrap(values, seed=3), cluster_bootstrap(values, seed=3)
    assert np.array_equal(a.low, b.low)
    assert a.value == pytest.approx(np.nanmean(values, 0))
    assert a.n_streams == 9
    assert not np.array_equal(a.low, cluster_bootstrap(values, seed=4).low)


def test_two_streams_give_no_interval_and_none_gives_an_error():
    two = cluster_bootstrap([1.0, 2.0])
    assert two.value == pytest.approx(1.5)
    assert np.isnan(two.low)
    with pytest.raises(LabError, match="at least one stream"):
        cluster_bootstrap(np.empty((0, 3)))


def test_ratio_weighs_streams_by_their_number_of_questions():
    right, asked = np.array([9.0, 1.0, 5.0]), np.array([10.0, 2.0, 20.0])
    assert ratio_bootstrap(right, asked).value == pytest.approx(15 / 32)


def test_pairing_removes_what_streams_share():
    rng = np.random.default_rng(0)
    base = 10 * rng.normal(size=20)
    a, b = base + 0.5 + 0.1 * rng.normal(size=20), base + 0.1 * rng.normal(size=20)
    difference = paired_difference(a, b)
    assert difference.low > 0.3
    assert difference.high < 0.7
    assert cluster_bootstrap(a).low < cluster_bootstrap(b).high


def test_effect_size_recovers_the_standardised_shift():
    rng = np.random.default_rng(1)
    differences = 0.8 + rng.normal(size=(30, 300))
    g = effect_size(differences, draws=500)
    assert g.value.mean() == pytest.approx(0.8, abs=0.03)
    assert 0.88 <= coverage(g, 0.8) <= 0.99


def test_sign_flip_matches_the_literal_enumeration():
    values = np.random.default_rng(2).normal(0.4, 1, size=(8, 3))

    def t(x):
        return x.mean(0) / (x.std(0, ddof=1) / np.sqrt(len(x)))

    flipped = np.stack([t(values * np.array(s)[:, None]) for s in product([1, -1], repeat=8)])
    result = sign_flip_test(values)
    assert result.exact
    assert result.flips == 256
    assert result.statistic == pytest.approx(t(values))
    assert result.p == pytest.approx((flipped >= t(values) - 1e-9).mean(0))
    assert result.p_corrected == pytest.approx(
        (flipped.max(1)[:, None] >= t(values) - 1e-9).mean(0)
    )


@pytest.mark.parametrize("streams", [9, 20])
def test_maximum_statistic_holds_the_family_wise_error(streams):
    rng = np.random.default_rng(streams)
    rejected = [
        (
            sign_flip_test(rng.standard_t(4, size=(streams, 48)), draws=600, seed=i).p_corrected
            < 0.05
        ).any()
        for i in range(200)
    ]
    assert np.mean(rejected) <= 0.09


def test_maximum_statistic_finds_the_one_real_head():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(16, 40))
    values[:, 7] += 2.0
    corrected = sign_flip_test(values, draws=2000).p_corrected
    assert corrected[7] < 0.005
    assert np.delete(corrected, 7).min() > 10 * corrected[7]


def test_constant_differences_are_handled():
    result = sign_flip_test(np.stack([np.zeros(6), np.ones(6), -np.ones(6)], 1))
    assert result.p[1] == pytest.approx(2**-6)
    assert result.p[0] == 1
    assert result.p[2] == 1


@pytest.mark.parametrize("alternative", ["less", "two-sided"])
def test_other_alternatives(alternative):
    result = sign_flip_test(
        np.full((7, 1), -2.0) + np.arange(7)[:, None] * 0.01, alternative=alternative
    )
    assert result.statistic[0] < 0
    assert result.p[0] == pytest.approx((1 if alternative == "less" else 2) * 2**-7)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])


def test_ranking_stability_tells_real_from_accidental_order():
    rng = np.random.default_rng(0)
    real = np.linspace(0, 3, 40) + 0.3 * rng.normal(size=(12, 40))
    steady = ranking_stability(real, top=5)
    noise = ranking_stability(rng.normal(size=(12, 40)), top=5)
    assert steady.jaccard > 0.6
    assert steady.spearman > 0.95
    assert noise.spearman < 0.65
    assert steady.selection[-1] > 0.9
    assert steady.chance_jaccard == pytest.approx(0.07, abs=0.01)
