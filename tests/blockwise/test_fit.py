from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.blockwise.fit import fit
from nas_distill.evaluate.intervals import rank_correlation
from nas_distill.utils.errors import ConfigError


def students(count: int, blocks: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.0, 1.0, (count, blocks))


def test_fit_recovers_the_true_weights() -> None:
    scores, truth = students(30, 4), np.array([0.0, 0.4, 1.2, 2.4])
    fitted = fit(scores, 0.9 - 0.1 * scores @ truth)
    assert fitted.weights == pytest.approx(truth / truth.mean(), abs=0.02)
    assert fitted.slope == pytest.approx(0.1 * truth.mean(), rel=0.02)
    assert fitted.intercept == pytest.approx(0.9, abs=0.005)
    assert fitted.predict(scores[0]) == pytest.approx(0.9 - 0.1 * float(scores[0] @ truth), abs=0.01)
    assert fitted.fitted.tau > 0.98 > fitted.plain.tau


def test_few_noisy_students_do_not_mislead_if_the_plain_sum_is_true() -> None:
    scores = students(12, 6)
    noise = np.random.default_rng(1).normal(0, 0.05, 12)
    fitted = fit(scores, 0.9 - 0.05 * scores.sum(1) + noise)
    assert fitted.strength >= 10
    assert fitted.weights == pytest.approx(np.ones(6), abs=0.35)


def test_weights_are_never_negative() -> None:
    scores = students(40, 3)
    fitted = fit(scores, 0.2 * scores[:, 0] - 0.2 * scores[:, 1])
    assert min(fitted.weights) >= 0
    assert fitted.weights[0] == 0
    assert fitted.weights[1] > 2


def test_scores_with_the_wrong_sign_yield_the_plain_sum() -> None:
    scores = students(20, 3)
    fitted = fit(scores, scores.sum(1))
    assert fitted.weights == (1.0, 1.0, 1.0)
    assert fitted.slope == 0
    assert fitted.plain.tau == -1


def test_held_out_predictions_of_random_qualities_have_no_correlation() -> None:
    taus = [
        fit(students(16, 4, seed), np.random.default_rng(100 + seed).normal(size=16)).fitted.tau for seed in range(5)
    ]
    assert np.mean(taus) < 0.15  # leave-one-out predictions of random qualities tend to correlate negatively


@given(st.integers(0, 1000), st.floats(0.1, 100), st.floats(-5, 5))
@settings(max_examples=5, deadline=None)
def test_units_of_scores_and_qualities_do_not_matter_for_weights(seed: int, scale: float, shift: float) -> None:
    scores = students(12, 3, seed)
    qualities = 0.8 - scores @ np.array([0.1, 0.2, 0.05]) + np.random.default_rng(seed).normal(0, 0.05, 12)
    plain, scaled = fit(scores, qualities), fit(scale * scores + 1, 3 * qualities + shift)
    assert scaled.weights == pytest.approx(plain.weights, abs=1e-5)
    assert scaled.fitted == plain.fitted


def test_the_interval_of_a_rank_correlation_contains_it_and_narrows_with_more_pairs() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(15, 2)), rng.normal(size=(150, 2))
    few[:, 1] += few[:, 0]
    many[:, 1] += many[:, 0]
    narrow, wide = rank_correlation(*many.T, seed=0), rank_correlation(*few.T, seed=0)
    assert narrow.low < narrow.tau < narrow.high
    assert wide.high - wide.low > narrow.high - narrow.low
    assert rank_correlation(*many.T, seed=0) == narrow
    assert (narrow.count, wide.count) == (150, 15)


def test_constant_values_have_zero_rank_correlation() -> None:
    assert rank_correlation([1, 1, 1], [1, 2, 3], seed=0).tau == 0
    assert (rank_correlation([1, 1, 1], [1, 2, 3], seed=0).low, rank_correlation([1], [2], seed=0).high) == (-1, 1)


@pytest.mark.parametrize(
    ("scores", "qualities", "message"),
    [
        (np.ones((11, 2)), np.ones(11), "11 trained students; train at least 12"),
        (np.ones((13, 2)), np.ones(12), "do not match"),
        (np.full((12, 2), np.nan), np.ones(12), "not finite"),
    ],
)
def test_invalid_data_of_a_fit_are_refused(scores: np.ndarray, qualities: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(scores.tolist(), qualities.tolist())


def test_pairs_are_compared_only_within_groups() -> None:
    groups = [0, 0, 0, 1, 1, 1]
    predicted, measured = [1, 2, 3, 11, 12, 13], [3, 2, 1, 13, 12, 11]
    assert rank_correlation(predicted, measured, seed=0).tau == pytest.approx(0.2)
    assert rank_correlation(predicted, measured, seed=0, groups=groups).tau == -1
