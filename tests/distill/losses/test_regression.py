import numpy as np
import pytest
import torch
from conformance import OnLogits, check_finite, check_gradient, drawn
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.distill.losses import Batch, Outputs, find_loss


def test_values_worked_out_by_hand():
    student = torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 2.0], [4.0, 3.0]], dtype=torch.float64)
    assert float(OnLogits("mse")(student, teacher)) == pytest.approx((1 + 4 + 1 + 1) / 4, rel=1e-12)
    # At a right angle, and with a cosine of 24 / 25.
    assert float(OnLogits("cosine_logits")(student, teacher)) == pytest.approx((1 + 1 / 25) / 2, rel=1e-12)


@pytest.mark.parametrize(("batch", "classes"), [(1, 2), (5, 10), (16, 100)])
def test_they_are_means(batch, classes):
    student, teacher = drawn(batch, classes), drawn(batch, classes, seed=1)
    one, other = student.numpy(), teacher.numpy()
    assert float(OnLogits("mse")(student, teacher)) == pytest.approx(np.square(one - other).mean(), rel=1e-12)
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert float(OnLogits("cosine_logits")(student, teacher)) == pytest.approx(1 - cosines.mean(), rel=1e-12)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 100))
def test_the_cosine_knows_no_size_and_the_square_grows_with_it(ours, theirs, seed):
    student, teacher = drawn(3, 4, seed=seed), drawn(3, 4, seed=seed + 1)
    cosine, mse = OnLogits("cosine_logits"), OnLogits("mse")
    value = float(cosine(student, teacher))
    assert -1e-12 <= value <= 2
    assert float(cosine(student * ours, teacher * theirs)) == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert float(cosine(-student, teacher)) == pytest.approx(2 - value, rel=1e-9, abs=1e-12)
    assert float(cosine(teacher * ours, teacher)) == pytest.approx(0, abs=1e-12)
    grown = float(mse(student * ours, teacher * ours))
    assert grown == pytest.approx(ours**2 * float(mse(student, teacher)), rel=1e-9)


def test_zeros_have_no_direction():
    student = torch.zeros(2, 3, requires_grad=True)
    value = OnLogits("cosine_logits")(student, drawn(2, 3, dtype=torch.float32))
    assert float(value.detach()) == 1.0
    check_finite(value, student)


def squared_error(outputs, targets):
    batch = Batch(targets, torch.arange(len(targets)), 0.0)
    return find_loss("squared_error").make(Outputs(outputs), None, batch)


def test_targets_worked_out_by_hand_and_by_formula():
    outputs, targets = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 2.0], [4.0, 3.0]])
    assert float(squared_error(outputs, targets)) == (1 + 4 + 1 + 1) / 4
    outputs, targets = drawn(16, 5), drawn(16, 5, seed=1)
    expected = np.square(outputs.numpy() - targets.numpy()).mean()
    assert float(squared_error(outputs, targets)) == pytest.approx(expected, rel=1e-12)
    # What the teacher's values would teach if they were the targets.
    assert float(squared_error(outputs, targets)) == float(OnLogits("mse")(outputs, targets))


def test_the_targets_are_the_minimum_and_the_gradient_is_that_of_the_value():
    outputs, targets = drawn(4, 3), drawn(4, 3, seed=1)
    check_gradient(lambda z: squared_error(z, targets), outputs)
    assert float(squared_error(targets, targets)) == 0
    assert float(squared_error(outputs, targets)) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_targets_give_finite_values_and_gradients_in_half_precision(dtype, size):
    outputs = drawn(4, 3, size=size, dtype=dtype).requires_grad_(True)
    check_finite(squared_error(outputs, drawn(4, 3, seed=1, dtype=torch.float32)), outputs)
