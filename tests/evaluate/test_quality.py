import pytest
import torch

from nas_distill.common.task import OUTPUT, OUTPUTS, QUALITY, TASKS
from nas_distill.evaluate.metrics import accuracy
from nas_distill.evaluate.multilabel import mean_average_precision
from nas_distill.evaluate.quality import quality_of
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
