import pytest
import torch

from nas_distill.common.task import OUTPUT, OUTPUTS, QUALITY, TASKS
from nas_distill.evaluate.metrics import accuracy
from nas_distill.evaluate.multilabel import mean_average_precision
from nas_distill.evaluate.quality import guessing_quality, quality_of
from nas_distill.evaluate.regression import r2

OUTPUT_OF = torch.tensor([[1.0, 0.0], [0.2, 0.4], [0.1, 0.9]])


def test_every_task_has_its_figure_and_its_words():
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert quality_of(OUTPUT_OF, torch.tensor([0, 1, 0])) == accuracy(OUTPUT_OF, torch.tensor([0, 1, 0]))
    assert quality_of(OUTPUT_OF, labels, "multilabel") == mean_average_precision(OUTPUT_OF, labels)
    assert quality_of(OUTPUT_OF, labels, "regression") == r2(OUTPUT_OF, labels)
    assert set(QUALITY) == set(OUTPUT) == set(OUTPUTS) == set(TASKS)


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_the_truth_is_the_best(task):
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert quality_of(labels, labels, task) == 1
    assert quality_of(-labels, labels, task) < 1


@pytest.mark.parametrize(
    ("task", "labels", "constant"),
    [
        ("classification", torch.tensor([0, 2, 2, 1, 2]), torch.tensor([[0.0, 0.0, 1.0]])),
        ("multilabel", torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), torch.zeros(1, 3)),
        ("regression", torch.tensor([[1.0, 5.0], [3.0, 5.0], [8.0, 5.0]]), torch.tensor([[4.0, 5.0]])),
    ],
)
def test_guessing_is_worth_what_the_best_constant_answer_is(task, labels, constant):
    wanted = quality_of(constant.expand(len(labels), -1), labels, task)
    assert guessing_quality(labels, task) == pytest.approx(wanted)
