import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from nas_distill.evaluate.regression import mae, r2, rmse
from nas_distill.utils.errors import DataError


def drawn(seed, samples=20, targets=3):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(samples, targets)) * [1, 10, 1000]
    return torch.from_numpy(truth + rng.normal(size=truth.shape) * 5), torch.from_numpy(truth)


def test_metrics_match_values_computed_by_hand():
    outputs, targets = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([[0.0], [3.0], [6.0]])
    assert r2(outputs, targets) == pytest.approx(1 - 2 / 18, rel=1e-12)
    assert rmse(outputs, targets) == pytest.approx(math.sqrt(2 / 3), rel=1e-12)
    assert mae(outputs, targets) == pytest.approx(2 / 3, rel=1e-12)


@given(st.integers(0, 1000))
def test_regression_metrics_match_scikit_learn(seed):
    outputs, targets = drawn(seed)
    assert r2(outputs, targets) == pytest.approx(r2_score(targets, outputs), rel=1e-9)
    flat = targets.numpy().ravel(), outputs.numpy().ravel()
    assert rmse(outputs, targets) == pytest.approx(root_mean_squared_error(*flat), rel=1e-9)
    assert mae(outputs, targets) == pytest.approx(mean_absolute_error(*flat), rel=1e-9)


@given(st.integers(0, 100), st.floats(0.01, 100), st.floats(-100, 100))
def test_r2_is_invariant_to_units_and_zero_for_the_mean(seed, scale, shift):
    outputs, targets = drawn(seed)
    assert r2(scale * outputs + shift, scale * targets + shift) == pytest.approx(r2(outputs, targets), rel=1e-6)
    assert r2(targets.mean(0, keepdim=True).expand_as(targets), targets) == pytest.approx(0, abs=1e-12)
    assert r2(targets, targets) == 1
    assert r2(-targets, targets) < 0


def test_constant_targets_are_left_out():
    outputs, targets = drawn(0)
    still = torch.full((20, 1), 0.1, dtype=torch.float64)
    assert r2(torch.cat([outputs, still + 1], 1), torch.cat([targets, still], 1)) == pytest.approx(r2(outputs, targets))
    with pytest.raises(DataError, match="All samples have the same targets"):
        r2(still, still)


@pytest.mark.parametrize("figure", [r2, rmse, mae])
def test_invalid_outputs_are_refused(figure):
    outputs, targets = drawn(0)
    with pytest.raises(DataError, match=r"need as many targets, but targets have \[20, 2\]"):
        figure(outputs, targets[:, :2])
    with pytest.raises(DataError, match="1 of 20 samples are NaN"):
        figure(torch.where(torch.arange(20)[:, None] == 3, math.nan, outputs), targets)
