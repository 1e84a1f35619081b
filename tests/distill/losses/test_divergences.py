import math

import numpy as np
import pytest
import torch
from conformance import OnLogits, drawn, gradient
from hypothesis import given
from hypothesis import strategies as st


def shares(logits, temperature=1.0):
    exponentials = np.exp(logits.numpy() / temperature)
    return exponentials / exponentials.sum(1, keepdims=True)


def kl(p, q):
    return float((p * np.log(p / q)).sum(1).mean())


# The teacher's shares are (3/4, 1/4), the student's (1/2, 1/2).
TEACHER = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()
STUDENT = torch.zeros(1, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("forward_kl", 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
        ("reverse_kl", 0.5 * math.log(2 / 3) + 0.5 * math.log(2)),
        ("soft_cross_entropy", math.log(2)),
        # The mixture is (5/8, 3/8).
        ("jsd", 0.5 * (0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)) + 0.25 * (math.log(4 / 5) + math.log(4 / 3))),
    ],
)
def test_values_worked_out_by_hand(name, expected):
    assert float(OnLogits(name)(STUDENT, TEACHER)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("batch", "classes"), [(1, 2), (5, 10), (16, 100)])
def test_they_are_the_formulas(temperature, batch, classes):
    student, teacher = drawn(batch, classes), drawn(batch, classes, seed=1)
    q, p = shares(student, temperature), shares(teacher, temperature)
    mixture = 0.3 * p + 0.7 * q
    expected = {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "soft_cross_entropy": float(-(p * np.log(q)).sum(1).mean()),
        "jsd": 0.3 * kl(p, mixture) + 0.7 * kl(q, mixture),
    }
    for name, value in expected.items():
        options = {"beta": 0.3} if name == "jsd" else {}
        found = float(OnLogits(name, temperature=temperature, **options)(student, teacher))
        assert found == pytest.approx(temperature**2 * value, rel=1e-9), name


def test_the_cross_entropy_is_kd_and_the_teacher_s_entropy():
    student, teacher = drawn(4, 5), drawn(4, 5, seed=1)
    soft, kd = (OnLogits(name, temperature=3.0) for name in ("soft_cross_entropy", "kd"))
    torch.testing.assert_close(gradient(soft, student, teacher), gradient(kd, student, teacher))
    entropy = float(soft(teacher, teacher))
    assert float(soft(student, teacher)) == pytest.approx(float(kd(student, teacher)) + entropy)


def test_kd_is_the_forward_divergence():
    student, teacher = drawn(4, 5), drawn(4, 5, seed=1)
    for temperature in (1.0, 4.0):
        one, other = (float(OnLogits(n, temperature=temperature)(student, teacher)) for n in ("kd", "forward_kl"))
        assert one == pytest.approx(other, rel=1e-12)


def test_at_its_ends_the_jsd_is_what_it_tends_to_over_the_vanishing_factor():
    student, teacher = drawn(4, 5), drawn(4, 5, seed=1)
    forward, reverse = (float(OnLogits(name)(student, teacher)) for name in ("forward_kl", "reverse_kl"))
    assert float(OnLogits("jsd", beta=0.0)(student, teacher)) == pytest.approx(forward, rel=1e-12)
    assert float(OnLogits("jsd", beta=1.0)(student, teacher)) == pytest.approx(reverse, rel=1e-12)
    near = 1e-5
    assert float(OnLogits("jsd", beta=near)(student, teacher)) / near == pytest.approx(forward, rel=1e-3)
    assert float(OnLogits("jsd", beta=1 - near)(student, teacher)) / near == pytest.approx(reverse, rel=1e-3)


@given(st.integers(0, 1000), st.floats(0.01, 0.99), st.floats(0.1, 30))
def test_the_jsd_is_bounded_and_turns_over_with_its_sides(seed, beta, size):
    student, teacher = drawn(3, 4, seed=seed, size=size), drawn(3, 4, seed=seed + 1, size=size)
    value = float(OnLogits("jsd", beta=beta)(student, teacher))
    # No more than the entropy of which side was drawn.
    assert value + 1e-12 >= 0
    assert value <= -beta * math.log(beta) - (1 - beta) * math.log(1 - beta) + 1e-9
    assert float(OnLogits("jsd", beta=1 - beta)(teacher, student)) == pytest.approx(value, rel=1e-6, abs=1e-12)


def test_which_way_round_is_what_is_covered():
    # The teacher holds two classes likely: the forward divergence wants both, the reverse one is content with one.
    teacher = torch.tensor([[5.0, 5.0, 0.0]], dtype=torch.float64)
    both, one = torch.tensor([[1.0, 1.0, 0.5]]).double(), torch.tensor([[9.0, 0.0, 0.0]]).double()
    assert float(OnLogits("forward_kl")(both, teacher)) < float(OnLogits("forward_kl")(one, teacher))
    assert float(OnLogits("reverse_kl")(both, teacher)) > 0.3
    assert float(OnLogits("reverse_kl")(one, teacher)) == pytest.approx(math.log(2), abs=0.01)
