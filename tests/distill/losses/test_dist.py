import numpy as np
import pytest
import torch
from conformance import OnLogits, check_finite, drawn
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.utils.errors import TrainingError


def by_hand(student, teacher, beta, gamma, temperature):
    """Correlations as NumPy has them."""
    shares = [np.exp(z / temperature) / np.exp(z / temperature).sum(1, keepdims=True) for z in (student, teacher)]
    inter = np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(*shares)])
    intra = np.mean([np.corrcoef(one, other)[0, 1] for one, other in zip(*(p.T for p in shares))])
    return temperature**2 * (beta * (1 - inter) + gamma * (1 - intra))


def test_a_value_worked_out_by_hand():
    # Shares (3/4, 1/4, 0) and (1/4, 3/4, 0) less their means 1/3: (5, -1, -4) / 12 and (-1, 5, -4) / 12.
    student, teacher = (torch.tensor([row], dtype=torch.float64).log() for row in ([3, 1, 1e-30], [1, 3, 1e-30]))
    value = OnLogits("dist", beta=2.0, gamma=0.0)(student, teacher)
    assert float(value) == pytest.approx(2 * (1 - 6 / 42), rel=1e-12)


@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0), (0.0, 1.0, 0.5)])
@pytest.mark.parametrize(("batch", "classes"), [(2, 3), (5, 10), (64, 100)])
def test_it_is_the_formula(beta, gamma, temperature, batch, classes):
    student, teacher = drawn(batch, classes, size=2.0), drawn(batch, classes, seed=1, size=2.0)
    value = OnLogits("dist", beta=beta, gamma=gamma, temperature=temperature)(student, teacher)
    expected = by_hand(student.numpy(), teacher.numpy(), beta, gamma, temperature)
    assert float(value) == pytest.approx(expected, rel=1e-8)


@given(st.integers(0, 1000), st.floats(0.1, 5))
def test_it_lies_between_agreement_and_opposition(seed, size):
    student, teacher = drawn(4, 5, seed=seed, size=size), drawn(4, 5, seed=seed + 1)
    assert 0 <= float(OnLogits("dist")(student, teacher)) <= 4 + 1e-12


def test_shares_that_are_the_teacher_s_up_to_scale_and_shift_are_the_minimum():
    # A student half as sure as the teacher: p_s = p_t / 2 + 1 / 10.
    shares = drawn(6, 5).softmax(1)
    assert float(OnLogits("dist")((shares / 2 + 0.1).log(), shares.log())) == pytest.approx(0, abs=1e-12)
    assert float(OnLogits("kd")((shares / 2 + 0.1).log(), shares.log())) > 0.01


def test_a_class_that_is_rare_everywhere_counts_as_the_others_do():
    student, teacher = drawn(8, 4), drawn(8, 4, seed=1)
    rare = torch.tensor([0.0, 0.0, 0.0, -9.0], dtype=torch.float64)  # shares around 1e-4
    value = float(OnLogits("dist")(student + rare, teacher + rare))
    assert value == pytest.approx(by_hand((student + rare).numpy(), (teacher + rare).numpy(), 1, 1, 1), rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_what_is_constant_correlates_with_nothing_and_gives_no_nan(dtype):
    student = torch.zeros(4, 5, dtype=dtype, requires_grad=True)
    value = OnLogits("dist")(student, drawn(4, 5, dtype=dtype))
    assert float(value.detach()) == 2.0
    check_finite(value, student)


def test_one_sample_has_no_relation_to_others():
    with pytest.raises(TrainingError, match=r"'dist' compares the samples .* has 1; set batch_size to 2 or more"):
        OnLogits("dist")(drawn(1, 5), drawn(1, 5, seed=1))
    assert float(OnLogits("dist", gamma=0.0)(drawn(1, 5), drawn(1, 5, seed=1))) > 0
