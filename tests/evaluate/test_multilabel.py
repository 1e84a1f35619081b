import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from nas_distill.evaluate.multilabel import label_agreement, label_ece, label_nll, macro_f1, mean_average_precision
from nas_distill.utils.errors import DataError


def drawn(seed, samples=30, labels=4, ties=False):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(samples, labels))
    truth = (rng.random((samples, labels)) < 0.3).astype(float)
    truth[0] = 1
    return torch.from_numpy(np.round(logits) if ties else logits), torch.from_numpy(truth)


def test_average_precision_matches_values_computed_by_hand():
    # Ranked: yes, no, yes, no. Precision 1 at half of the recall, 2/3 at the other half.
    logits, labels = torch.tensor([[4.0], [3.0], [2.0], [1.0]]), torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    assert mean_average_precision(logits, labels) == pytest.approx((1 + 2 / 3) / 2, rel=1e-12)
    # Equal scores give the frequency of the label.
    assert mean_average_precision(torch.zeros(4, 1), labels) == 0.5


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.booleans())
def test_metrics_match_scikit_learn(seed, ties):
    logits, labels = drawn(seed, ties=ties)
    scores, truth = logits.numpy(), labels.numpy()
    assert mean_average_precision(logits, labels) == pytest.approx(average_precision_score(truth, scores), rel=1e-9)
    expected = f1_score(truth, scores > 0, average="macro", zero_division=0)
    assert macro_f1(logits, labels) == pytest.approx(expected, rel=1e-9)


def test_labels_that_no_sample_has_are_left_out():
    logits, labels = drawn(0)
    with_rare = torch.cat([labels, torch.zeros(30, 1)], dim=1)
    more = torch.cat([logits, torch.ones(30, 1)], dim=1)
    for figure in (mean_average_precision, macro_f1):
        assert figure(more, with_rare) == pytest.approx(figure(logits, labels), rel=1e-12)
        with pytest.raises(DataError, match="No sample has any label"):
            figure(logits, labels * 0)


@given(st.integers(0, 100), st.floats(0.1, 10))
def test_average_precision_depends_only_on_ranks(seed, scale):
    logits, labels = drawn(seed)
    value = mean_average_precision(logits, labels)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    assert mean_average_precision(scale * logits[order] - 1, labels[order]) == pytest.approx(value, rel=1e-9)
    assert 0 < value <= mean_average_precision(labels, labels) == 1


def test_the_likelihood_is_summed_over_labels():
    logits, labels = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert label_nll(logits, labels) == pytest.approx((math.log(2) + math.log(4 / 3) + 2 * math.log(2)) / 2, rel=1e-6)


def test_calibration_error_is_of_label_probabilities():
    # Half of the labels with probability 3/4 are present, and none of those with 1/4.
    logits = torch.tensor([[math.log(3)], [math.log(3)], [-math.log(3)], [-math.log(3)]])
    labels = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    assert label_ece(logits, labels) == pytest.approx(0.25, abs=1e-6)
    assert label_ece(logits, torch.tensor([[1.0], [1.0], [0.0], [0.0]])) == pytest.approx(0.25, abs=1e-6)


def test_agreement_is_over_all_labels():
    one, other = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[2.0, 3.0], [0.5, 0.0]])
    assert label_agreement(one, other) == 0.5
    with pytest.raises(DataError, match="same shape"):
        label_agreement(one, other[:, :1])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4, 2), torch.zeros(4), r"must have the same shape, but have .*\[4\]"),
        (torch.zeros(4, 2), torch.full((4, 2), 0.5), "0 or 1"),
        (torch.full((4, 2), math.nan), torch.ones(4, 2), "4 of 4 samples are NaN"),
        (torch.zeros(0, 2), torch.zeros(0, 2), "no values to evaluate"),
    ],
)
def test_invalid_multi_label_values_are_refused(logits, labels, message):
    for figure in (mean_average_precision, macro_f1, label_nll, label_ece):
        with pytest.raises(DataError, match=message):
            figure(logits, labels)
