import math

import numpy as np
import pytest
import torch
from conformance import OnLogits, check_finite, check_gradient, drawn, gradient
from torch.nn import functional

from nas_distill.distill.losses import Batch, Outputs, find_loss


def test_a_value_worked_out_by_hand():
    # The teacher is 3/4 sure of the first label and undecided about the second, the student undecided about both.
    teacher = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(OnLogits("bce_kd")(torch.zeros_like(teacher), teacher)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("batch", "labels"), [(1, 1), (5, 10), (16, 80)])
def test_it_is_the_sum_over_labels_and_the_mean_over_the_batch(temperature, batch, labels):
    student, teacher = drawn(batch, labels, size=2.0), drawn(batch, labels, seed=1, size=2.0)
    q, p = (1 / (1 + np.exp(-z.numpy() / temperature)) for z in (student, teacher))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum() / batch * temperature**2
    assert float(OnLogits("bce_kd", temperature=temperature)(student, teacher)) == pytest.approx(expected, rel=1e-9)


def test_its_gradient_is_that_of_binary_cross_entropy():
    student, teacher = drawn(4, 6), drawn(4, 6, seed=1)

    def entropy(z):
        return functional.binary_cross_entropy_with_logits(z, teacher.sigmoid(), reduction="sum") / 4

    torch.testing.assert_close(gradient(OnLogits("bce_kd"), student, teacher), gradient(entropy, student))


def test_labels_do_not_compete():
    # Unlike classes: what is said of one label has no part in the gradient for another.
    student, teacher = drawn(3, 4), drawn(3, 4, seed=1)
    other = teacher.clone()
    other[:, 0] += 5
    one, two = (gradient(OnLogits("bce_kd"), student, t) for t in (teacher, other))
    assert torch.equal(one[:, 1:], two[:, 1:])
    assert not torch.equal(one[:, 0], two[:, 0])


def test_it_is_the_divergence_of_classes_that_are_two():
    # A sigmoid is a softmax beside a logit of 0.
    student, teacher = drawn(5, 1), drawn(5, 1, seed=1)
    pairs = [torch.cat((z, torch.zeros_like(z)), 1) for z in (student, teacher)]
    value = float(OnLogits("bce_kd", temperature=2.0)(student, teacher))
    assert value == pytest.approx(float(OnLogits("kd", temperature=2.0)(*pairs)), rel=1e-10)


def bce(logits, labels):
    batch = Batch(labels, torch.arange(len(labels)), 0.0)
    return find_loss("bce").make(Outputs(logits), None, batch)


def zeros_and_ones(*shape, seed=0):
    return (drawn(*shape, seed=seed) > 0).float()


def test_labels_worked_out_by_hand():
    # 3/4 sure of the first label, which is there; undecided about the second, which is not.
    logits = torch.tensor([[math.log(3), 0.0]], dtype=torch.float64)
    assert float(bce(logits, torch.tensor([[1.0, 0.0]]))) == pytest.approx(math.log(4 / 3) + math.log(2), rel=1e-12)


@pytest.mark.parametrize(("batch", "count"), [(1, 1), (5, 10), (16, 80)])
def test_labels_are_summed_over_and_the_batch_is_averaged(batch, count):
    logits, labels = drawn(batch, count, size=2.0), zeros_and_ones(batch, count, seed=1)
    shares, truth = 1 / (1 + np.exp(-logits.numpy())), labels.numpy()
    expected = -(truth * np.log(shares) + (1 - truth) * np.log(1 - shares)).sum() / batch
    assert float(bce(logits, labels)) == pytest.approx(expected, rel=1e-9)


def test_what_labels_teach_is_what_a_teacher_that_is_sure_of_them_does():
    logits, labels = drawn(4, 6), zeros_and_ones(4, 6, seed=1)
    check_gradient(lambda z: bce(z, labels), logits)
    sure = (2 * labels.double() - 1) * 100
    torch.testing.assert_close(gradient(bce, logits, labels), gradient(OnLogits("bce_kd"), logits, sure))


def test_labels_told_surely_are_the_minimum_0():
    labels = zeros_and_ones(4, 6)
    for size, value in ((50.0, 0.0), (-50.0, 50.0 * 6)):
        assert float(bce((2 * labels - 1).double() * size, labels)) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_labels_give_finite_values_and_gradients_in_half_precision(dtype, size):
    logits = drawn(4, 3, size=size, dtype=dtype).requires_grad_(True)
    check_finite(bce(logits, zeros_and_ones(4, 3)), logits)
