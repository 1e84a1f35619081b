import numpy as np
import pytest
import torch
from conformance import OnFeatures

from nas_distill.utils.errors import TrainingError

# Widths differ, heads do not.
ATTENTION = [(3, 2, 5, 4), (3, 2, 5, 4)], [(3, 2, 5, 6), (3, 2, 5, 6)]
HIDDEN = [(5, 8), (5, 8)], [(5, 12), (5, 12)]


def attention_scores(feature):
    queries, keys, _ = feature.numpy()
    return np.einsum("bhnd,bhmd->bhnm", queries, keys) / np.sqrt(queries.shape[-1])


def test_a_value_of_attention_worked_out_by_hand():
    # One head of width 4, two tokens: the scores are [[2, 0], [0, 0]] and [[0, 0], [0, 0]].
    student = torch.zeros(3, 1, 1, 2, 4, dtype=torch.float64)
    student[:2, 0, 0, 0, 0] = 2.0
    teacher = torch.zeros(3, 1, 1, 2, 9, dtype=torch.float64)
    loss = OnFeatures("tinybert_attention", [(3, 1, 2, 4)], [(3, 1, 2, 9)])
    assert float(loss([student], [teacher])) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 4])
def test_attention_is_the_mean_of_squares_added_over_layers(batch):
    loss = OnFeatures("tinybert_attention", *ATTENTION)
    student, teacher = loss.draw(batch)
    expected = sum(
        np.square(attention_scores(ours) - attention_scores(theirs)).mean() for ours, theirs in zip(student, teacher)
    )
    assert float(loss(student, teacher)) == pytest.approx(expected, rel=1e-10)


def test_values_have_no_part_in_the_scores():
    loss = OnFeatures("tinybert_attention", *ATTENTION)
    student, teacher = loss.draw()
    value = float(loss(student, teacher))
    for feature in student:
        feature[2] = 7.0
    assert float(loss(student, teacher)) == value


def test_equal_scores_of_other_widths_are_the_minimum():
    loss = OnFeatures("tinybert_attention", [(3, 2, 5, 4)], [(3, 2, 5, 16)])
    student, _ = loss.draw()
    # Twice as wide for each doubling of the square root, and zeros beside.
    teacher = torch.cat([student[0] * 2**0.5, torch.zeros(3, 4, 2, 5, 12).double()], dim=-1)
    ours = student[0].requires_grad_(True)
    value = loss([ours], [teacher])
    assert float(value.detach()) == pytest.approx(0, abs=1e-12)
    value.backward()
    assert float(ours.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("batch", [1, 4])
def test_hidden_is_the_mean_of_squares_behind_one_projector_added_over_layers(batch):
    loss = OnFeatures("tinybert_hidden", *HIDDEN)
    (layer,) = loss.module.projectors.values()
    weight, bias = (parameter.detach().numpy() for parameter in layer.parameters())
    assert weight.shape == (12, 8)
    student, teacher = loss.draw(batch)
    expected = sum(
        np.square(ours.numpy() @ weight.T + bias - theirs.numpy()).mean() for ours, theirs in zip(student, teacher)
    )
    assert float(loss(student, teacher).detach()) == pytest.approx(expected, rel=1e-10)


def test_a_value_of_hidden_worked_out_by_hand():
    loss = OnFeatures("tinybert_hidden", [(1, 2)], [(1, 2)])
    with torch.no_grad():
        for parameter in loss.module.parameters():
            parameter.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]) if parameter.dim() == 2 else torch.tensor([1.0, 0]))
    student, teacher = torch.tensor([[[3.0, 4.0]]]).double(), torch.tensor([[[5.0, 7.0]]]).double()
    # It is turned to (4, 3) and shifted to (5, 3).
    assert float(loss([student], [teacher]).detach()) == pytest.approx(16 / 2, rel=1e-12)


def test_a_projector_is_learnt_also_where_widths_agree_and_shared_by_layers_of_the_same_widths():
    same = OnFeatures("tinybert_hidden", [(5, 8)], [(5, 8)])
    student, _ = same.draw()
    assert float(same(student, student).detach()) > 0.1  # the identity is not assumed
    widths = OnFeatures("tinybert_hidden", [(5, 8), (5, 8), (3, 16)], [(5, 12), (5, 12), (3, 12)])
    assert [tuple(p.shape) for p in widths.module.parameters() if p.dim() == 2] == [(12, 8), (12, 16)]
    assert torch.isfinite(widths(*widths.draw()).detach())


def test_projected_tokens_equal_to_the_teacher_s_are_the_minimum_for_both():
    loss = OnFeatures("tinybert_hidden", *HIDDEN)
    (projector,) = loss.module.projectors.values()
    student, _ = loss.draw()
    teacher = [projector(ours).detach() for ours in student]
    student = [ours.requires_grad_(True) for ours in student]
    value = loss(student, teacher)
    assert float(value.detach()) == pytest.approx(0, abs=1e-20)
    value.backward()
    for tensor in [*student, *loss.module.parameters()]:
        assert float(tensor.grad.abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("name", "shapes", "sentence"),
    [
        ("tinybert_attention", ((3, 2, 5, 4), (3, 3, 5, 4)), "student has 2 heads and the teacher 3; take 'minilm'"),
        ("tinybert_attention", ((3, 2, 5, 4), (3, 2, 6, 4)), "student has 5 of them and the teacher 6; give both"),
        ("tinybert_attention", ((5, 8), (5, 8)), r"not (5, 8); name attentions as 'path:qkv'"),
        ("tinybert_hidden", ((5, 8), (6, 8)), "The student has 5 tokens and the teacher 6"),
        ("tinybert_hidden", ((8, 4, 4), (5, 8)), "shape (8, 4, 4)"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused_when_it_is_made(name, shapes, sentence):
    student, teacher = shapes
    with pytest.raises(TrainingError) as error:
        OnFeatures(name, [student], [teacher])
    assert sentence in str(error.value)
