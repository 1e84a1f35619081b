import math

import numpy as np
import pytest
import torch
from conformance import OnLogits, drawn, labels_of

from nas_distill.distill.losses import find_loss


def by_hand(student, teacher, labels, alpha, beta, temperature):
    """From the probabilities, in float64, one sample after another."""
    total = 0.0
    for z_s, z_t, y in zip(student.numpy(), teacher.numpy(), labels.tolist()):
        p, q = (np.exp(z / temperature) / np.exp(z / temperature).sum() for z in (z_t, z_s))
        target = p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        others = [c for c in range(len(p)) if c != y]
        p_rest, q_rest = p[others] / (1 - p[y]), q[others] / (1 - q[y])
        total += alpha * target + beta * float((p_rest * np.log(p_rest / q_rest)).sum())
    return temperature**2 * total / len(labels)


def test_a_value_worked_out_by_hand():
    # The teacher's shares are (1/2, 1/4, 1/4), the student's (1/4, 1/4, 1/2); the target is the first class.
    teacher = torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64).log()
    student = torch.tensor([[1.0, 1.0, 2.0]], dtype=torch.float64).log()
    target = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    others = 0.5 * math.log(3 / 2) + 0.5 * math.log(3 / 4)
    value = OnLogits("dkd", alpha=3.0, beta=5.0, temperature=1.0)(student, teacher, torch.tensor([0]))
    assert float(value) == pytest.approx(3 * target + 5 * others, rel=1e-12)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.0, 1.0, 1.0), (2.0, 0.0, 0.5)])
@pytest.mark.parametrize(("batch", "classes"), [(1, 3), (5, 10), (16, 100)])
def test_it_is_the_formula(alpha, beta, temperature, batch, classes):
    student, teacher, labels = drawn(batch, classes), drawn(batch, classes, seed=1), labels_of(batch, classes)
    value = OnLogits("dkd", alpha=alpha, beta=beta, temperature=temperature)(student, teacher, labels)
    assert float(value) == pytest.approx(by_hand(student, teacher, labels, alpha, beta, temperature), rel=1e-9)


def test_the_plain_divergence_is_the_parts_with_the_others_weighed_by_the_teacher_s_doubt():
    # KL = TCKD + (1 - p_y) NCKD: what the method decouples.
    student, teacher, labels = drawn(1, 6), drawn(1, 6, seed=1), torch.tensor([2])
    doubt = 1 - float(teacher.softmax(1)[0, 2])
    parts = OnLogits("dkd", alpha=1.0, beta=doubt, temperature=1.0)(student, teacher, labels)
    assert float(parts) == pytest.approx(float(OnLogits("kd", temperature=1.0)(student, teacher)), rel=1e-10)


def test_of_two_classes_there_is_the_target_s_part_alone():
    student, teacher, labels = drawn(5, 2), drawn(5, 2, seed=1), labels_of(5, 2)
    values = [float(OnLogits("dkd", beta=beta)(student, teacher, labels)) for beta in (0.0, 8.0)]
    assert values[0] == values[1] == pytest.approx(float(OnLogits("kd")(student, teacher)), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_certain_student_and_teacher_are_told_apart_exactly(dtype):
    # p_y rounds to 1 on both sides; the logs of 1 - p_y are -2e4 + log 2 all the same.
    teacher = torch.tensor([[1e4, -1e4, -1e4]], dtype=dtype)
    student = torch.tensor([[-1e4, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    value = OnLogits("dkd", alpha=1.0, beta=0.0, temperature=1.0)(student, teacher, torch.tensor([0]))
    assert float(value.detach()) == pytest.approx(2e4, rel=1e-3)
    value.backward()
    torch.testing.assert_close(student.grad.float(), torch.tensor([[-1.0, 1.0, 0.0]]))


def test_its_docstring_says_how_it_is_warmed_up():
    assert {"``warmup``", "0.08."} <= set(find_loss("dkd").make.__doc__.split())
    assert round(20 / 240, 2) == 0.08
