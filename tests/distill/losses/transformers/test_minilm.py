import math

import numpy as np
import pytest
import torch
from conformance import OnFeatures, drawn
from hypothesis import given
from hypothesis import strategies as st

from nas_distill.distill.losses import find_loss
from nas_distill.utils.errors import ConfigError, TrainingError


def relations(feature, heads):
    """Softmax of products, from (B, heads, N, d), in NumPy: one sample and one relation head after another."""
    rows = []
    for sample in feature.numpy():
        joined = np.concatenate(list(sample), axis=-1)  # (N, heads * d)
        for part in np.split(joined, heads, axis=-1):
            products = np.exp(part @ part.T / math.sqrt(part.shape[-1]))
            rows.append(products / products.sum(1, keepdims=True))
    return np.concatenate(rows)


def by_hand(student, teacher, heads):
    total = 0.0
    for ours, theirs in zip(student, teacher):  # queries, keys, values
        q, p = relations(ours, heads), relations(theirs, heads)
        total += (p * np.log(p / q)).sum(1).mean()
    return total


def test_a_value_worked_out_by_hand():
    # Two tokens, one number each. The teacher's products for the first token are (log 3, 0), all others 0.
    root = math.sqrt(math.log(3))
    teacher = torch.tensor([root, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2, 1).repeat(3, 1, 1, 1, 1)
    student = torch.zeros_like(teacher)
    loss = OnFeatures("minilm", [(3, 1, 2, 1)], [(3, 1, 2, 1)])
    row = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert float(loss([student], [teacher])) == pytest.approx(3 * row / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("student", "teacher", "heads"),
    [
        ((3, 2, 5, 4), (3, 2, 5, 4), 2),
        ((3, 2, 5, 4), (3, 3, 5, 8), 4),
        ((3, 4, 5, 2), (3, 3, 5, 4), 1),
        ((3, 1, 1, 6), (3, 2, 1, 3), 3),
    ],
)
@pytest.mark.parametrize("batch", [1, 4])
def test_it_is_the_formula_whatever_widths_and_heads(student, teacher, heads, batch):
    loss = OnFeatures("minilm", [student], [teacher], relation_heads=heads)
    (ours,), (theirs,) = loss.draw(batch)
    assert float(loss([ours], [theirs])) == pytest.approx(by_hand(ours, theirs, heads), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("student", "teacher", "heads"),
    [
        ((3, 2, 5, 4), (3, 4, 5, 4), 4),
        ((3, 12, 5, 26), (3, 12, 5, 64), 12),
        ((3, 3, 5, 3), (3, 4, 5, 4), 1),
        ((3, 5, 5, 2), (3, 4, 5, 8), 2),
    ],
)
def test_heads_left_open_are_the_greatest_that_fit_the_teacher_s_heads_and_the_student_s_width(student, teacher, heads):
    assert OnFeatures("minilm", [student], [teacher]).module.heads == heads


def test_of_several_layers_the_last_is_read():
    loss = OnFeatures("minilm", [(3, 2, 5, 4)] * 2, [(3, 2, 5, 4), (3, 2, 5, 8)])
    student, teacher = loss.draw()
    value = float(loss(student, teacher))
    assert value == pytest.approx(by_hand(student[-1], teacher[-1], 2), rel=1e-9)
    assert float(loss([student[0] * 5, student[1]], [teacher[0] - 1, teacher[1]])) == value


@given(st.integers(0, 1000), st.floats(0.01, 10))
def test_equal_relations_are_the_minimum(seed, size):
    loss = OnFeatures("minilm", [(3, 2, 3, 4)], [(3, 1, 3, 8)], relation_heads=2)
    ours = drawn(3, 2, 2, 3, 4, seed=seed, size=size)
    same = ours.transpose(2, 3).reshape(3, 2, 1, 3, 8)
    # Relations know no rotation within a relation head: minus one is one.
    for theirs in (same, -same):
        student = ours.clone().requires_grad_(True)
        value = loss([student], [theirs])
        assert float(value.detach()) == pytest.approx(0, abs=1e-10)
        value.backward()
        assert float(student.grad.abs().max()) < 1e-9 * max(1, size**2)
    assert float(loss([drawn(3, 2, 2, 3, 4, seed=seed + 1, size=size)], [same])) >= -1e-12


@pytest.mark.parametrize(
    ("student", "teacher", "options", "sentence"),
    [
        ((3, 2, 5, 4), (3, 2, 5, 4), {"relation_heads": 3}, "width 8 and the teacher's 8 into relation_heads, and 3"),
        ((3, 2, 5, 6), (3, 2, 5, 4), {"relation_heads": 8}, "does not divide both; take one of 1, 2, 4."),
        ((3, 2, 5, 4), (3, 2, 7, 4), {}, "student has 5 of them and the teacher 7"),
        ((8, 4, 4), (3, 2, 7, 4), {}, "not (8, 4, 4); name attentions as 'path:qkv'"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused_when_it_is_made(student, teacher, options, sentence):
    with pytest.raises(TrainingError) as error:
        OnFeatures("minilm", [student], [teacher], **options)
    assert sentence in str(error.value)


def test_no_heads_are_refused():
    with pytest.raises(ConfigError, match="'relation_heads'"):
        find_loss("minilm").check({"relation_heads": 0}, "loss.0")
