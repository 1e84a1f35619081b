import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_distill.distill.losses.relational import similarities


def by_hand(one, other):
    grams = []
    for value in (one, other):
        flat = value.reshape(len(value), -1)
        gram = flat @ flat.T
        grams.append(gram / np.sqrt((gram**2).sum(axis=1, keepdims=True)))
    return ((grams[0] - grams[1]) ** 2).sum() / len(one) ** 2


def test_a_value_worked_out_by_hand(make_case):
    # Gram matrices: the student's identity; the teacher's all ones, so rows of 1 / sqrt 2.
    student, teacher = torch.eye(2, dtype=torch.float64), torch.ones(2, 1, dtype=torch.float64)
    root = 1 / math.sqrt(2)
    expected = (2 * (1 - root) ** 2 + 2 * root**2) / 4
    assert float(make_case("sp", [(2,)], [(1,)])([student], [teacher])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("student", "teacher"), [((3, 4, 4), (5, 2, 2)), ((4, 3), (7, 6)), ((3,), (2, 3, 3))])
def test_it_is_the_formula_for_any_two_shapes(make_case, as_numpy, student, teacher):
    case = make_case("sp", [student], [teacher])
    ours, theirs = case.draw(6)
    assert float(case(ours, theirs)) == pytest.approx(by_hand(*as_numpy([*ours, *theirs])), rel=1e-10)
    both = make_case("sp", [student] * 2, [teacher] * 2)(ours * 2, theirs * 2)
    assert float(both) == pytest.approx(2 * by_hand(*as_numpy([*ours, *theirs])), rel=1e-10)


def test_a_repeated_batch_counts_by_its_rows_norm(make_case):
    # Rows keep norm 1 as they lengthen, so that the sum grows with B and the whole falls with 1 / B.
    case = make_case("sp", [(3,)], [(5,)])
    ours, theirs = case.draw()
    value = float(case(ours, theirs))
    repeated = float(case([ours[0].repeat(4, 1)], [theirs[0].repeat(4, 1)]))
    assert repeated == pytest.approx(value / 4, rel=1e-9)


@settings(deadline=None)  # the first example loads what torch loads late
@given(st.integers(0, 100), st.floats(1e-3, 1e6))
def test_a_factor_and_a_rotation_change_nothing(seed, factor):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
    torch.testing.assert_close(similarities(x @ turn * factor), similarities(x), rtol=1e-8, atol=1e-9)


def test_gradient_minimum_and_stability(make_case):
    make_case("sp", [(3, 2, 2)], [(5, 2, 2)]).check_gradient()
    make_case("sp", [(3, 2, 2), (3,)], [(3, 2, 2), (3,)]).check_minimum()
    make_case("sp", [(3, 4, 4)], [(5, 2, 2)], dtype=torch.float32).check_stability()
