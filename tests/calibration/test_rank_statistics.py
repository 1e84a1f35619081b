"""Rank statistics, compared with hand-computed values and with invariants over random samples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from nas_distill.calibration import rank_statistics as ranking
from nas_distill.evaluate.intervals import bootstrap_weights, kendall_tau, percentile_interval, weighted_taus

SMALL = st.integers(-3, 3).map(float)
PAIRS = st.lists(st.tuples(SMALL, SMALL), min_size=3, max_size=12)


def test_tau_of_five_by_hand():
    # Of ten pairs (1,2) and (4,5) are the wrong way round.
    assert kendall_tau([1, 2, 3, 4, 5], [2, 1, 3, 5, 4]) == pytest.approx(0.6)
    assert kendall_tau([1, 1, 1], [1, 2, 3]) is None


def test_tau_within_similar_costs_counts_no_other_pair():
    costs = [1, 1.4, 10, 14]
    close = ranking.similar_cost_pairs(costs, 1.5)
    assert close.sum() == 4
    assert not close.diagonal().any()
    # The score orders cheap and expensive networks correctly, and each pair of similar cost wrongly.
    score, target = [2, 1, 4, 3], [1, 2, 3, 4]
    assert kendall_tau(score, target) == pytest.approx(1 / 3)
    assert kendall_tau(score, target, close) == pytest.approx(-1.0)
    assert kendall_tau(score, target, ranking.similar_cost_pairs(costs, 1.01)) is None


@given(PAIRS)
def test_unit_weights_give_the_unweighted_tau(pairs):
    one, two = np.array(pairs).T
    found = float(weighted_taus(one, two, np.ones((1, len(one))))[0])
    expected = float(kendalltau(one, two).statistic)
    assert found == pytest.approx(expected, nan_ok=True)


@given(PAIRS, st.randoms(use_true_random=False))
def test_weights_are_the_counts_of_bootstrap_draws(pairs, random):
    one, two = np.array(pairs).T
    drawn = [random.randrange(len(one)) for _ in one]
    weights = np.bincount(drawn, minlength=len(one)).astype(float)
    found = float(weighted_taus(one, two, weights[None])[0])
    assert found == pytest.approx(float(kendalltau(one[drawn], two[drawn]).statistic), nan_ok=True)


def test_bootstrap_draws_have_the_sample_size_and_are_reproducible():
    weights = bootstrap_weights(7, 50)
    assert weights.shape == (50, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert (weights == bootstrap_weights(7, 50)).all()


def test_the_percentile_interval_ignores_nan():
    assert percentile_interval([*range(101), math.nan]) == pytest.approx((2.5, 97.5))
    assert percentile_interval([math.nan]) is None


def test_top_recall_shares_places_among_ties():
    target = [5, 4, 3, 2, 1]
    assert ranking.top_recall([5, 4, 3, 2, 1], target, 2) == 1.0
    assert ranking.top_recall([1, 2, 3, 4, 5], target, 2) == 0.0
    assert ranking.top_recall([9, 1, 1, 1, 1], target, 2) == pytest.approx((1 + 0.25) / 2)
    assert ranking.top_recall([1, 1, 1, 1, 1], target, 2) == pytest.approx(2 / 5)
    with pytest.raises(ValueError, match="best 6 of 5"):
        ranking.top_recall(target, target, 6)


def test_regret_is_the_loss_by_the_best_score():
    assert ranking.regret([3, 2, 1], [0.7, 0.9, 0.8]) == pytest.approx(0.2)
    assert ranking.regret([3, 3, 1], [0.7, 0.9, 0.8]) == pytest.approx(0.1)
    assert ranking.regret([0.7, 0.9, 0.8], [0.7, 0.9, 0.8]) == 0


@given(PAIRS)
def test_regret_and_recall_are_within_their_bounds(pairs):
    score, target = np.array(pairs).T
    assert 0 <= ranking.regret(score, target) <= np.ptp(target)
    assert 0 <= ranking.top_recall(score, target, 2) <= 1


def test_leave_one_out_equals_fits_without_each_network():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 15))
    y = 2 * x - z + rng.normal(size=15)
    found = ranking.leave_one_out([x, z], y)
    for out in range(15):
        keep = np.arange(15) != out
        matrix = np.column_stack([np.ones(14), x[keep], z[keep]])
        weights = np.linalg.lstsq(matrix, y[keep], rcond=None)[0]
        assert found[out] == pytest.approx(weights @ [1, x[out], z[out]])


def test_a_feature_without_information_does_not_rank_after_its_fit():
    rng = np.random.default_rng(1)
    y, noise = rng.normal(size=(2, 40))
    assert kendall_tau(ranking.leave_one_out([noise], y), y) < 0.1


def test_a_constant_feature_is_left_out_and_too_few_networks_are_refused():
    y = np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    x = np.arange(5.0)
    assert ranking.leave_one_out([x, np.full(5, 7.0)], y) == pytest.approx(ranking.leave_one_out([x], y))
    with pytest.raises(ValueError, match="too few to fit"):
        ranking.leave_one_out([x, x**2, x**3], y)


def test_deviation_between_seeds_is_pooled():
    assert ranking.seed_deviation([[0.5, 0.7], [0.6, 0.7]]) == pytest.approx(math.sqrt(0.005 / 2))
    assert ranking.seed_deviation([[0.5, math.nan], [0.6, 0.7]]) == pytest.approx(math.sqrt(0.005))
    assert ranking.seed_deviation([[0.5]]) is None
    assert ranking.seed_deviation([[math.nan], [0.1]]) is None


# The slope per doubling of the cost.


def test_the_slope_equals_that_of_the_least_squares_fit():
    rng = np.random.default_rng(0)
    score, doublings = rng.uniform(0.8, 0.9, 30), rng.uniform(18, 22, 30)
    found = ranking.cost_slope(score, 2**doublings, 0.3 + 0.5 * score + 0.004 * doublings)
    assert found.slope == pytest.approx(0.008)
    assert found.error_with < 1e-9 < found.error_without
    assert found.helps
    assert found.sure
    assert found.interval == pytest.approx((0.008, 0.008))
    assert found.missing == 0


def test_an_uninformative_cost_does_not_reduce_the_error():
    rng = np.random.default_rng(1)
    score, cost = rng.uniform(0.8, 0.9, 40), 2 ** rng.uniform(18, 22, 40)
    found = ranking.cost_slope(score, cost, score + rng.normal(0, 1e-4, 40))
    assert abs(found.slope) < 1e-3
    assert found.error_with == pytest.approx(found.error_without, rel=0.2)


def test_the_interval_covers_the_slope_and_narrows_with_more_networks():
    rng, covered, widths = np.random.default_rng(3), [], {}
    for count in (20, 80):
        for _ in range(60):
            score, doublings = rng.uniform(0.8, 0.9, count), rng.uniform(18, 22, count)
            quality = 0.3 + 0.5 * score + 0.004 * doublings + rng.normal(0, 0.004, count)
            found = ranking.cost_slope(score, 2**doublings, quality)
            covered.append(found.interval[0] <= 0.008 <= found.interval[1])
            widths.setdefault(count, []).append(found.interval[1] - found.interval[0])
    assert np.mean(covered) > 0.85
    assert np.median(widths[80]) < 0.7 * np.median(widths[20])


def test_a_weak_score_gives_a_slope_that_is_not_sure():
    rng = np.random.default_rng(4)
    doublings = rng.uniform(18, 22, 24)
    quality = 0.004 * doublings + rng.normal(0, 0.003, 24)
    score = 0.02 * quality + rng.normal(0.8, 0.01, 24) + 0.004 * doublings
    found = ranking.cost_slope(score, 2**doublings, quality)
    assert found is None or not found.sure
    wide = ranking.cost_slope(score, 2**doublings, quality + 0.05 * score)
    assert wide.missing > 0 or wide.interval[1] - wide.interval[0] > 2 * wide.slope
    assert not wide.sure


def test_a_negatively_correlated_score_has_no_slope():
    score = np.linspace(0.8, 0.9, 10)
    cost = 2 ** np.random.default_rng(2).uniform(18, 22, 10)
    assert ranking.cost_slope(score, cost, 1 - score) is None


def test_too_few_networks_have_no_slope():
    with pytest.raises(ValueError, match="too few"):
        ranking.cost_slope([0.1, 0.2, 0.3], [1, 2, 3], [0.1, 0.2, 0.3])
