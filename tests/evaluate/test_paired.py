"""Paired intervals of differences between two networks."""

import math

import numpy as np
import pytest
import torch

from nas_distill.evaluate.classification import accuracy
from nas_distill.evaluate.paired import paired_bootstrap, paired_proportions
from nas_distill.evaluate.regression import r2


def masks(both, only_one, only_other, neither):
    one = [True] * (both + only_one) + [False] * (only_other + neither)
    other = [True] * both + [False] * only_one + [True] * only_other + [False] * neither
    return torch.tensor(one), torch.tensor(other)


def test_the_difference_of_two_accuracies():
    found = paired_proportions(*masks(70, 12, 5, 13))
    assert found.difference == pytest.approx(0.07)
    # By hand: p1 = 13/102, p2 = 6/102.
    more, less = 13 / 102, 6 / 102
    reach = 1.959964 * math.sqrt((more + less - (more - less) ** 2) / 102)
    assert (found.low, found.high) == pytest.approx((more - less - reach, more - less + reach), abs=1e-6)
    swapped = paired_proportions(*reversed(masks(70, 12, 5, 13)))
    assert (swapped.difference, swapped.low, swapped.high) == pytest.approx(
        (-found.difference, -found.high, -found.low)
    )


def test_samples_on_which_both_agree_do_not_widen_it():
    few, many = paired_proportions(*masks(0, 40, 20, 940)), paired_proportions(*masks(940, 40, 20, 0))
    assert (few.low, few.high) == (many.low, many.high)
    unpaired = 1.96 * math.sqrt(0.98 * 0.02 / 1000 + 0.96 * 0.04 / 1000)
    assert many.high - many.low < 2.5 * unpaired


def test_networks_that_agree_have_no_difference_and_an_interval():
    found = paired_proportions(*masks(15, 0, 0, 5))
    assert found.difference == 0.0
    assert found.low < 0 < found.high
    assert paired_proportions(*masks(0, 0, 1, 0)).low >= -1


@pytest.mark.parametrize(("more", "less"), [(0.04, 0.04), (0.06, 0.02), (0.01, 0.0)])
def test_it_covers_the_true_difference(more, less):
    rng = np.random.default_rng(0)
    covered, draws, count = 0, 600, 300
    for _ in range(draws):
        kinds = rng.choice(3, size=count, p=[more, less, 1 - more - less])
        one, other = torch.from_numpy(kinds == 0), torch.from_numpy(kinds == 1)
        found = paired_proportions(one, other)
        covered += found.low <= more - less <= found.high
    assert covered / draws > 0.93


def outputs(seed, samples=600, noise=0.5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randn(samples, 2, generator=torch.Generator().manual_seed(9))
    return labels + noise * torch.randn(samples, 2, generator=generator), labels


def test_the_bootstrap_agrees_with_the_interval_of_proportions():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (800,), generator=generator)
    one, other = (torch.randn(800, 3, generator=generator) + 2.0 * torch.eye(3)[labels] for _ in range(2))
    drawn = paired_bootstrap(accuracy, one, other, labels)
    known = paired_proportions(one.argmax(1) == labels, other.argmax(1) == labels)
    assert drawn.difference == pytest.approx(known.difference)
    assert (drawn.low, drawn.high) == pytest.approx((known.low, known.high), abs=0.012)


def test_the_bootstrap_is_paired():
    better, labels = outputs(0)
    # The second network has the first one's errors and a few more, so the difference is known well.
    worse = better + 0.1 * torch.randn(better.shape, generator=torch.Generator().manual_seed(1))
    found = paired_bootstrap(r2, better, worse, labels)
    other, _ = outputs(2)
    independent = paired_bootstrap(r2, better, other, labels)
    assert found.low > 0
    assert (found.high - found.low) < 0.7 * (independent.high - independent.low)
    assert independent.low < 0 < independent.high
    same = paired_bootstrap(r2, better, better, labels)
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    assert paired_bootstrap(r2, better, worse, labels) == found  # seeded
