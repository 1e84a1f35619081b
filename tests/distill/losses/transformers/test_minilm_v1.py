import math

import numpy as np
import pytest
import torch
from conformance import OnFeatures, drawn
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.utils.errors import TrainingError


def softmax_of_products(one, other):
    """Rows of (..., N, N) from (..., N, d), in NumPy."""
    products = np.exp(one @ np.swapaxes(other, -1, -2) / math.sqrt(one.shape[-1]))
    return products / products.sum(-1, keepdims=True)


def by_hand(student, teacher):
    total = 0.0
    for place, other in ((0, 1), (2, 2)):  # queries with keys, values with values
        q, p = (softmax_of_products(side.numpy()[place], side.numpy()[other]) for side in (student, teacher))
        total += (p * np.log(p / q)).sum(-1).mean()
    return total


def test_a_value_worked_out_by_hand():
    # One head of one number, two tokens. The first token attends with (3/4, 1/4), all else is even.
    teacher = torch.zeros(3, 1, 1, 2, 1, dtype=torch.float64)
    teacher[0, 0, 0, 0], teacher[1, 0, 0, 0] = math.log(3), 1.0
    loss = OnFeatures("minilm_v1", [(3, 1, 2, 1)], [(3, 1, 2, 1)])
    row = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(loss([torch.zeros_like(teacher)], [teacher])) == pytest.approx(row / 2, rel=1e-12)
    # The values alone: rows (3/4, 1/4) and (1/2, 1/2) again, now of v v^T.
    values = torch.zeros_like(teacher)
    values[2, 0, 0, 0] = math.sqrt(math.log(3))
    assert float(loss([torch.zeros_like(values)], [values])) == pytest.approx(row / 2, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("ours", "theirs"), [(4, 4), (2, 9)])
def test_it_is_the_formula_whatever_the_widths(batch, ours, theirs):
    loss = OnFeatures("minilm_v1", [(3, 2, 5, ours)], [(3, 2, 5, theirs)])
    (student,), (teacher,) = loss.draw(batch)
    assert float(loss([student], [teacher])) == pytest.approx(by_hand(student, teacher), rel=1e-9)


def test_of_several_layers_the_last_is_read():
    # Heads of the others may differ.
    loss = OnFeatures("minilm_v1", [(3, 1, 5, 8), (3, 2, 5, 4)], [(3, 4, 5, 4), (3, 2, 5, 8)])
    student, teacher = loss.draw()
    value = float(loss(student, teacher))
    assert value == pytest.approx(by_hand(student[-1], teacher[-1]), rel=1e-9)
    assert float(loss([student[0] * 5, student[1]], [teacher[0] - 1, teacher[1]])) == value


@given(st.integers(0, 1000), st.floats(0.01, 5))
def test_equal_attention_and_value_relation_are_the_minimum(seed, size):
    loss = OnFeatures("minilm_v1", [(3, 2, 3, 4)], [(3, 2, 3, 16)])
    ours = drawn(3, 2, 2, 3, 4, seed=seed, size=size)
    # Four times as wide: products must be twice as large.
    wider = torch.cat([ours * 2**0.5, torch.zeros(3, 2, 2, 3, 12).double()], dim=-1)
    student = ours.clone().requires_grad_(True)
    value = loss([student], [wider])
    assert float(value.detach()) == pytest.approx(0, abs=1e-10)
    value.backward()
    assert float(student.grad.abs().max()) < 1e-9 * max(1, size**2)
    assert float(loss([drawn(3, 2, 2, 3, 4, seed=seed + 1, size=size)], [wider])) >= -1e-12


@pytest.mark.parametrize(
    ("student", "teacher", "sentence"),
    [
        ((3, 2, 5, 4), (3, 4, 5, 2), "student has 2 heads and the teacher 4; take 'minilm'"),
        ((3, 2, 5, 4), (3, 2, 7, 4), "student has 5 of them and the teacher 7"),
        ((8, 4, 4), (3, 2, 7, 4), "not (8, 4, 4); name attentions as 'path:qkv'"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused_when_it_is_made(student, teacher, sentence):
    with pytest.raises(TrainingError) as error:
        OnFeatures("minilm_v1", [student], [teacher])
    assert sentence in str(error.value)
