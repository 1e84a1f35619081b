import math

import numpy as np
import pytest
import torch
from conformance import OnLogits, drawn, gradient
from torch.nn import functional


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
