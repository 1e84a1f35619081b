import numpy as np
import pytest
import torch
from conformance import OnLogits, check_finite, drawn
from hypothesis import given
from hypothesis import strategies as st


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
