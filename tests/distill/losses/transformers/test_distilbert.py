import numpy as np
import pytest
import torch
from conformance import OnFeatures, drawn, labels_of

from nas_distill.config import TermConfig
from nas_distill.distill.losses import Batch, Outputs, Shapes
from nas_distill.distill.objective import Objective, find_terms
from nas_distill.utils.errors import TrainingError

NAME = "cosine_hidden"


def test_a_value_worked_out_by_hand():
    # Two tokens: one at a right angle to the teacher's, one with a cosine of 24 / 25.
    student = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]], dtype=torch.float64)
    teacher = torch.tensor([[[0.0, 2.0], [4.0, 3.0]]], dtype=torch.float64)
    loss = OnFeatures(NAME, [(2, 2)], [(2, 2)])
    assert float(loss([student], [teacher])) == pytest.approx((1 + 1 / 25) / 2, rel=1e-12)


@pytest.mark.parametrize("batch", [1, 4])
def test_it_is_the_mean_over_tokens_behind_a_projector_where_widths_differ(batch):
    loss = OnFeatures(NAME, [(5, 8), (5, 12)], [(5, 12), (5, 12)])
    weight, bias = (parameter.detach().numpy() for parameter in loss.module.parameters())
    (one, two), (three, four) = loss.draw(batch)
    expected = 0.0
    for ours, theirs in [(one.numpy() @ weight.T + bias, three.numpy()), (two.numpy(), four.numpy())]:
        sizes = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
        expected += (1 - (ours * theirs).sum(-1) / sizes).mean()
    assert float(loss([one, two], [three, four]).detach()) == pytest.approx(expected, rel=1e-10)


def test_tokens_of_the_teacher_s_direction_are_the_minimum():
    loss = OnFeatures(NAME, [(5, 8)], [(5, 8)])
    assert not list(loss.module.parameters())
    (ours,), _ = loss.draw()
    ours.requires_grad_(True)
    value = loss([ours], [3 * ours.detach()])
    assert float(value.detach()) == pytest.approx(0, abs=1e-12)
    value.backward()
    assert float(ours.grad.abs().max()) < 1e-12
    assert float(loss([ours.detach()], [-ours.detach()])) == pytest.approx(2)


def test_the_triple_loss_is_a_sum_of_three_terms():
    terms = find_terms(
        [
            TermConfig.model_validate({"name": "kd", "weight": 5.0, "temperature": 2.0}),
            TermConfig(name="cross_entropy", weight=2.0),
            TermConfig(name=NAME),
        ]
    )
    student, teacher, labels = drawn(4, 5), drawn(4, 5, seed=1), labels_of(4, 5)
    (ours,), (theirs,) = OnFeatures(NAME, [(3, 8)], [(3, 8)]).draw()
    shapes = Shapes(5, 100, 10, (((3, 8), (3, 8)),))
    objective = Objective(terms, [shapes] * 3)
    outputs = [(Outputs(student, (ours,)), Outputs(teacher, (theirs,)))] * 3
    value = float(objective(outputs, Batch(labels, torch.arange(4), 0.0)))
    p, q = (np.exp(z.numpy() / 2) / np.exp(z.numpy() / 2).sum(1, keepdims=True) for z in (teacher, student))
    soft = 4 * (p * np.log(p / q)).sum(1).mean()
    hard = -np.log(student.softmax(1).numpy()[np.arange(4), labels]).mean()
    cosine = 1 - torch.cosine_similarity(ours, theirs, dim=-1).mean()
    assert value == pytest.approx(5 * soft + 2 * hard + float(cosine), rel=1e-6)


def test_layers_that_cannot_be_compared_are_refused_when_it_is_made():
    with pytest.raises(
        TrainingError, match=r"'cosine_hidden' compares tokens \(N, D\), not layers of shape \(8, 4, 4\)"
    ):
        OnFeatures(NAME, [(8, 4, 4)], [(8, 4, 4)])
    with pytest.raises(TrainingError, match="The student has 5 tokens and the teacher 6"):
        OnFeatures(NAME, [(5, 8)], [(6, 8)])
