import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nas_distill.distill.losses import Batch, Outputs
from nas_distill.distill.losses.kd import corrected, divergence, kd, standardise


def by_hand(student, teacher, temperature):
    """KL(p || q) of tempered softmaxes in float64, summed over classes, averaged over the batch, times T^2."""
    total = 0.0
    for z_s, z_t in zip(np.asarray(student, dtype=np.float64), np.asarray(teacher, dtype=np.float64)):
        p, q = (np.exp((z - z.max()) / temperature) for z in (z_t, z_s))
        p, q = p / p.sum(), q / q.sum()
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q) if a > 0)
    return temperature**2 * total / len(student)


def test_a_value_worked_out_by_hand():
    # T = 2: the teacher's tempered shares are 2/3 and 1/3, the student's 1/2 and 1/2.
    teacher = torch.tensor([[2 * math.log(2), 0.0]], dtype=torch.float64)
    student = torch.zeros(1, 2, dtype=torch.float64)
    expected = 4 * (2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))
    assert float(divergence(student, teacher, 2.0)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize(("batch", "classes"), [(1, 2), (5, 10), (64, 100)])
def test_it_is_the_sum_over_classes_and_the_mean_over_the_batch(temperature, batch, classes):
    student, teacher = (
        torch.randn(2, batch, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    )
    value = float(divergence(student, teacher, temperature))
    assert value == pytest.approx(by_hand(student, teacher, temperature), rel=1e-10)
    repeated = divergence(student.repeat(3, 1), teacher.repeat(3, 1), temperature)
    assert float(repeated) == pytest.approx(value, rel=1e-10)


def test_the_gradient_is_that_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: divergence(z, teacher, 3.0), (student,))
    divergence(student, teacher, 3.0).backward()
    # d/dz of T^2 KL / B is T (q - p) / B.
    expected = 3.0 * ((student / 3).softmax(1) - (teacher / 3).softmax(1)) / 3
    torch.testing.assert_close(student.grad, expected.detach())


def test_temperature_does_not_change_the_size_of_the_gradient():
    # For hot softmaxes the gradient nears (z_s - z_t - their means' difference) / C / B, whatever T.
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    norms = []
    for temperature in (20.0, 200.0):
        z = student.clone().requires_grad_(True)
        divergence(z, teacher, temperature).backward()
        norms.append(float(z.grad.norm()))
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


logits = hnp.arrays(np.float64, (3, 4), elements=st.floats(-50, 50))


@given(logits, logits, st.floats(-100, 100), st.floats(0.5, 20))
def test_equal_logits_up_to_a_constant_are_the_minimum(student, teacher, shift, temperature):
    student, teacher = torch.from_numpy(student), torch.from_numpy(teacher)
    assert float(divergence(student, teacher, temperature)) >= -1e-9
    assert float(divergence(teacher + shift, teacher, temperature)) == pytest.approx(0, abs=1e-9)
    z = (teacher + shift).requires_grad_(True)
    divergence(z, teacher, temperature).backward()
    assert float(z.grad.abs().max()) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, 5e4])
@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_large_logits_stay_finite_and_exact(dtype, size, temperature):
    student = torch.tensor([[size, -size, 0.0], [-size, size, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-size, size, 0.0], [-size, size, 0.0]], dtype=dtype)
    loss = divergence(student, teacher, temperature)
    # The teacher is certain of the class that the student is certain against, in one sample of two.
    exact = temperature * float(student[0].detach().double() @ torch.tensor([1.0, -1.0, 0.0]).double()) / 2
    assert float(loss.detach()) == pytest.approx(exact, rel=1e-6)
    loss.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_more_than_its_inputs_do(dtype):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 16, 100, generator=generator).to(dtype)
    value = divergence(student, teacher, 4.0)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(by_hand(student.double(), teacher.double(), 4.0), rel=1e-4)


def test_a_teacher_that_is_certain_does_not_make_nan():
    # log of a probability of 0 would.
    teacher = torch.tensor([[1e4, -1e4, 0.0]])
    for student in (torch.zeros(1, 3), teacher.clone(), -teacher):
        assert math.isfinite(float(divergence(student, teacher, 1.0)))


# Standardised logits.


@given(logits, st.floats(0.1, 10), st.floats(-20, 20))
def test_standardised_logits_know_neither_scale_nor_shift(values, factor, shift):
    values = torch.from_numpy(values)
    if float(values.std(dim=1).min()) < 1e-3:
        return
    torch.testing.assert_close(standardise(values * factor + shift), standardise(values), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(standardise(values).std(dim=1), torch.ones(3, dtype=values.dtype))


def test_standardising_equal_logits_has_a_finite_gradient():
    values = torch.zeros(2, 5, requires_grad=True)
    divergence(standardise(values), torch.randn(2, 5), 2.0).backward()
    assert torch.isfinite(values.grad).all()


# Where the teacher is wrong, and temperatures of each sample's own.


def batch(labels):
    return Batch(torch.tensor(labels), torch.arange(len(labels)), 0.5)


def test_where_the_teacher_is_wrong_the_label_and_its_choice_change_places():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 5.0, 0.0]])
    expected = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [0.0, 0.0, 5.0]])
    assert torch.equal(corrected(logits, torch.tensor([0, 1, 2])), expected)


@given(logits, st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_a_corrected_teacher_is_right_and_as_sure_as_before(values, labels):
    values, labels = torch.from_numpy(values), torch.tensor(labels)
    after = corrected(values, labels)
    assert torch.equal(after.gather(1, labels[:, None])[:, 0], values.amax(1))
    assert torch.equal(after.sort(1).values, values.sort(1).values)


@pytest.mark.parametrize("adaptive", ["similarity", "confidence"])
def test_temperatures_of_each_samples_own(adaptive):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64) * 2
    if adaptive == "similarity":
        hard = 1 - (student * teacher).sum(1) / student.norm(dim=1) / teacher.norm(dim=1)
    else:
        hard = 1 / student.softmax(1).amax(1)
    own = 3 + 0.5 * (hard.mean() - hard)
    assert float(own.min()) > 0.75
    assert float(own.max() - own.min()) > 0.1
    expected = (
        sum(by_hand(s[None], t[None], float(temperature)) for s, t, temperature in zip(student, teacher, own)) / 6
    )
    value = kd(Outputs(student), Outputs(teacher), batch([0] * 6), temperature=3.0, adaptive=adaptive, spread=0.5)
    assert float(value) == pytest.approx(expected, rel=1e-4)
    same = kd(Outputs(teacher), Outputs(teacher), batch([0] * 6), temperature=3.0, adaptive=adaptive)
    assert float(same) == pytest.approx(0, abs=1e-9)


def test_one_temperature_for_each_is_one_for_all():
    student, teacher = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = torch.full((4, 1), 2.5, dtype=torch.float64)
    assert float(divergence(student, teacher, own)) == pytest.approx(float(divergence(student, teacher, 2.5)))
