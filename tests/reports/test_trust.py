import math

import numpy as np
import pytest

from nas_distill.evaluate.intervals import kendall_tau
from nas_distill.reports.model import FinalistResult
from nas_distill.reports.trust import rank_trust


def finalists(*pairs):
    return [FinalistResult(number, {}, short, full) for number, (short, full) in enumerate(pairs)]


def test_kendall_counts_pairs():
    """Of six pairs one is tied in the second figure; three agree and two do not, or all five agree."""
    assert kendall_tau(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 3, 2.5])) == pytest.approx(1 / math.sqrt(30))
    assert kendall_tau(np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 4])) == pytest.approx(5 / math.sqrt(30))
    assert kendall_tau(np.array([1.0, 1.0]), np.array([1.0, 2.0])) is None
    assert kendall_tau(np.array([1.0]), np.array([2.0])) is None


def test_perfect_and_reversed_rankings():
    assert rank_trust(finalists((0.8, 0.9), (0.7, 0.85), (0.6, 0.8))).kendall == 1
    reverse = rank_trust(finalists((0.8, 0.8), (0.7, 0.85), (0.6, 0.9)))
    assert reverse.kendall == -1
    assert reverse.regret == pytest.approx(0.1)


def test_regret_is_0_if_the_best_is_ranked_first():
    assert rank_trust(finalists((0.8, 0.9), (0.7, 0.7), (0.6, 0.8))).regret == 0


def test_equal_short_scores_share_the_regret():
    assert rank_trust(finalists((0.8, 0.9), (0.8, 0.7))).regret == pytest.approx(0.1)


def test_an_interval_around_tau_needs_five_finalists():
    rng = np.random.default_rng(0)
    short = rng.normal(size=12)
    pairs = list(zip(short, short + 0.5 * rng.normal(size=12)))
    assert rank_trust(finalists(*pairs[:4])).interval is None
    trust = rank_trust(finalists(*pairs))
    low, high = trust.interval
    assert -1 <= low < trust.kendall < high <= 1
    assert rank_trust(finalists(*pairs)) == trust


def test_failed_finalists_are_left_out():
    trust = rank_trust(finalists((0.8, 0.9), (0.7, None), (None, 0.9), (math.nan, 0.9), (0.6, 0.7)))
    assert trust.finalists == 2
    assert trust.kendall == 1
    assert rank_trust([]).kendall is None
    assert rank_trust(finalists((0.8, None))).regret is None


def test_constant_scores_have_no_rank_correlation():
    trust = rank_trust(finalists(*[(0.8, 0.9)] * 6))
    assert trust.kendall is None
    assert trust.interval is None
    assert trust.regret == 0
