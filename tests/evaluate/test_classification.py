import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.evaluate.classification import accuracy, agreement, ece, nll
from nas_distill.utils.errors import DataError


@st.composite
def cases(draw):
    samples, classes = draw(st.integers(1, 40)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(size=(samples, classes)) * draw(st.sampled_from([0.0, 0.1, 1.0, 5.0, 60.0]))
    labels = rng.integers(classes, size=samples)
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def softmax_by_hand(logits):
    z = logits.double().numpy()
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def ece_by_hand(logits, labels, bins=15):
    p = softmax_by_hand(logits)
    confidence, hit = p.max(axis=1), p.argmax(axis=1) == labels.numpy()
    total = 0.0
    for m in range(bins):
        inside = (confidence > m / bins) & (confidence <= (m + 1) / bins)
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return total


@given(cases())
@settings(max_examples=150, deadline=None)
def test_metrics_equal_an_independent_numpy_computation(case):
    logits, labels = case
    p = softmax_by_hand(logits)
    z = logits.double().numpy()
    log_sum = np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)) + z.max(axis=1)
    rows = np.arange(len(labels))
    assert accuracy(logits, labels) == pytest.approx((p.argmax(axis=1) == labels.numpy()).mean())
    assert nll(logits, labels) == pytest.approx((log_sum - z[rows, labels.numpy()]).mean(), abs=1e-12)
    assert ece(logits, labels) == pytest.approx(ece_by_hand(logits, labels), abs=1e-9)


@given(cases(), st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_metrics_are_within_their_bounds(case, bins):
    logits, labels = case
    assert 0 <= accuracy(logits, labels) <= 1
    assert 0 <= ece(logits, labels, bins) <= 1
    assert nll(logits, labels) >= 0
    assert agreement(logits, logits) == 1


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_samples_is_not_significant(case, random):
    logits, labels = case
    order = list(range(len(labels)))
    random.shuffle(order)
    other = torch.roll(logits, 1, dims=1)
    for figure in (accuracy, nll, ece):
        assert figure(logits[order], labels[order]) == pytest.approx(figure(logits, labels), abs=1e-12)
    assert agreement(logits[order], other[order]) == agreement(logits, other) == agreement(other, logits)


@given(cases(), st.floats(-50, 50))
@settings(max_examples=50, deadline=None)
def test_metrics_are_invariant_to_a_constant_added_to_all_logits(case, shift):
    logits, labels = case
    moved = logits.double() + shift
    for figure in (accuracy, nll, ece):
        assert figure(moved, labels) == pytest.approx(figure(logits.double(), labels), abs=1e-9)


def test_perfect_confident_predictions_have_ideal_metrics():
    labels = torch.arange(5)
    logits = torch.eye(5) * 200
    assert accuracy(logits, labels) == 1
    assert nll(logits, labels) == pytest.approx(0, abs=1e-12)
    assert ece(logits, labels) == pytest.approx(0, abs=1e-12)


def test_confident_wrong_predictions_have_the_largest_calibration_error():
    logits = torch.eye(4) * 200
    assert ece(logits, (torch.arange(4) + 1) % 4) == pytest.approx(1)


def test_a_confidence_on_an_edge_is_in_the_lower_bin():
    # Two bins, with two confidences of exactly 0.5 and one above, which is the only one in the upper bin.
    logits = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])
    assert ece(logits, labels, bins=2) == pytest.approx(1 / 3 * (1 - 0.75))
    assert ece(logits, labels, bins=1) == pytest.approx(abs(2 / 3 - (0.5 + 0.5 + 0.75) / 3))


def test_agreement_counts_equal_predictions_correct_or_not():
    a = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 4.0]])
    b = torch.tensor([[9.0, 1.0], [1.0, 0.0], [5.0, 1.0], [0.0, 0.1]])
    assert agreement(a, b) == 0.75


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_stay_finite(dtype):
    largest = torch.finfo(dtype).max
    logits = torch.tensor([[largest, -largest, 0], [-largest, largest, 0]], dtype=torch.float64).to(dtype)
    if dtype == torch.float64:
        logits = logits / 4
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 2])
    assert nll(logits, right) == 0
    assert math.isfinite(nll(logits, wrong))
    assert nll(logits, wrong) > 1e4
    assert ece(logits, right) == 0


def test_integer_labels_of_any_type_and_tensors_with_gradients_are_accepted():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    for dtype in (torch.uint8, torch.int32, torch.int64):
        assert accuracy(logits, torch.tensor([0, 0], dtype=dtype)) == 0.5


@pytest.mark.parametrize("figure", [accuracy, nll, ece])
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "need 3 labels"),
        (torch.zeros(3, 2), torch.zeros(3, 1, dtype=torch.int64), "need 3 labels"),
        (torch.zeros(3, 2, 1), torch.zeros(3, dtype=torch.int64), r"\[samples, classes\]"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), "floating"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), "0 to 2, but with 2 classes they must be in 0..1"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1]), "-1 to 1"),
        (torch.zeros(3, 2), torch.zeros(3), "integers"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool), "integers"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "no values to evaluate"),
        (torch.zeros(2, 0), torch.zeros(2, dtype=torch.int64), "no values to evaluate"),
        (torch.tensor([[0.0, float("nan")], [0, 1]]), torch.tensor([0, 1]), "1 of 2 samples are NaN"),
        (torch.tensor([[0.0, float("inf")], [0, 1]]), torch.tensor([0, 1]), "1 of 2 samples are NaN or infinite"),
    ],
)
def test_invalid_logits_and_labels_are_refused(figure, logits, labels, message):
    with pytest.raises(DataError, match=message) as caught:
        figure(logits, labels)
    assert str(caught.value).count("\n") == 0
    assert str(caught.value).endswith(".")


def test_agreement_of_different_shapes_and_zero_bins_are_refused():
    with pytest.raises(DataError, match=r"\[3, 2\] and \[3, 4\]"):
        agreement(torch.zeros(3, 2), torch.zeros(3, 4))
    with pytest.raises(DataError, match="at least 1 bin"):
        ece(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), bins=0)
