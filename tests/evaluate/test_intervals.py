import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.evaluate.classification import accuracy
from nas_distill.evaluate.intervals import accuracy_halfwidth, bootstrap_halfwidth, crossed_interval
from nas_distill.utils.errors import DataError


@given(st.data(), st.integers(1, 10**5))
def test_more_samples_give_a_narrower_interval(data, samples):
    accuracy = data.draw(st.integers(0, samples)) / samples
    width = accuracy_halfwidth(accuracy, samples)
    assert 0 < width <= 0.5
    assert accuracy_halfwidth(accuracy, 4 * samples) < width


def test_wilsons_interval_matches_a_published_value():
    # For 92 correct predictions of 100: 0.8500 to 0.9589 (Wilson, 1927).
    assert accuracy_halfwidth(0.92, 100) == pytest.approx((0.9589 - 0.8500) / 2, abs=2e-4)
    assert math.isnan(accuracy_halfwidth(0.9, 0))


def test_the_bootstrap_interval_of_accuracy_is_near_wilsons():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy((rng.random(400) < 0.8).astype(np.int64))
    logits = torch.tensor([[0.0, 1.0]]).expand(400, 2)
    found = bootstrap_halfwidth(accuracy, logits, labels)
    assert found == pytest.approx(accuracy_halfwidth(accuracy(logits, labels), 400), rel=0.2)
    assert found == bootstrap_halfwidth(accuracy, logits, labels)  # seeded


def test_draws_with_an_undefined_metric_are_left_out():
    def mostly(outputs, labels):
        if float(labels.sum()) < 2:
            raise DataError("not this one")
        return float(labels.mean())

    labels = torch.zeros(10, 1)
    labels[:2] = 1
    assert 0 < bootstrap_halfwidth(mostly, labels, labels) < 1
    assert math.isnan(bootstrap_halfwidth(mostly, labels, labels * 0))


@pytest.mark.parametrize(("of_seeds", "of_samples"), [(0.01, 0.0), (0.01, 0.3), (0.0, 0.3)])
def test_the_crossed_interval_covers_few_seeds_and_their_samples(of_seeds, of_samples):
    """Two standard errors over three seeds would cover only 82 %, without the variation of samples."""
    rng, samples, covered = np.random.default_rng(0), 400, []
    for _ in range(600):
        seeds, images = rng.normal(0, of_seeds, (3, 1)), rng.normal(0, of_samples, (1, samples))
        mean, accuracy_halfwidth = crossed_interval(0.05 + seeds + images + rng.normal(0, 0.1, (3, samples)))
        covered.append(abs(mean - 0.05) <= accuracy_halfwidth)
    assert np.mean(covered) > 0.93


def test_equal_seeds_leave_the_interval_of_samples():
    right = np.tile(np.arange(1000) % 4 == 0, (3, 1))
    mean, accuracy_halfwidth = crossed_interval(right)
    assert mean == 0.25
    assert accuracy_halfwidth == pytest.approx(1.96 * math.sqrt(0.25 * 0.75 / 1000), rel=0.01)
    assert crossed_interval(np.ones((3, 5))) == (1.0, 0.0)
