import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.distill.losses.relational import neighbours


def by_hand(student, teacher):
    shares = []
    for value in (student, teacher):
        value = value / np.sqrt((value**2).sum(axis=1, keepdims=True))
        kernel = (value @ value.T + 1) / 2
        shares.append(kernel / kernel.sum(axis=1, keepdims=True))
    q, p = shares
    return (p * np.log(p / q)).mean()


def test_a_value_worked_out_by_hand(make_case):
    # Cosines: the student's 0 gives kernels 1 and 1/2, shares 2/3 and 1/3; the teacher's 1 gives shares 1/2.
    student, teacher = torch.eye(2, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    expected = (0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))) / 2
    assert float(make_case("pkt", [(2,)], [(3,)])([student], [teacher])) == pytest.approx(expected, rel=1e-12)


def test_it_is_the_mean_over_all_pairs(make_case, as_numpy):
    case = make_case("pkt", [(3,), (4, 2, 2)], [(5,), (2, 2, 2)])
    ours, theirs = case.draw(6)
    first = by_hand(*as_numpy([ours[0], theirs[0]]))
    second = by_hand(*as_numpy([ours[1].mean(dim=(2, 3)), theirs[1].mean(dim=(2, 3))]))
    assert float(case(ours, theirs)) == pytest.approx(first + second, rel=1e-9)


def test_a_repeated_batch_counts_less(make_case):
    # A row's divergence stays, and there are 3 B of them over 9 B^2 elements.
    case = make_case("pkt", [(3,)], [(5,)])
    ours, theirs = case.draw()
    value = float(case(ours, theirs))
    assert float(case([ours[0].repeat(3, 1)], [theirs[0].repeat(3, 1)])) == pytest.approx(value / 3, rel=1e-9)


@settings(deadline=None)  # the first example loads what torch loads late
@given(st.integers(0, 100), st.floats(1e-2, 1e4))
def test_rows_are_probabilities_that_know_no_scale(seed, factor):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(neighbours(x).sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert (neighbours(x) >= -1e-12).all()
    torch.testing.assert_close(neighbours(x * factor), neighbours(x))


def test_opposite_vectors_are_finite(make_case):
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = make_case("pkt", [(2,)], [(2,)])([student], [torch.ones(2, 2, dtype=torch.float64)])
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_gradient_minimum_and_stability(make_case):
    make_case("pkt", [(3,)], [(4,)]).check_gradient()
    make_case("pkt", [(3,)], [(3,)]).check_minimum()
    make_case("pkt", [(3,)], [(4,)], dtype=torch.float32).check_stability()
