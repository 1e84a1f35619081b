import subprocess
import sys

import pytest
import torch

from nas_distill.evaluate import classification as metrics
from nas_distill.tasks import find_task, read_evaluation
from nas_distill.utils.errors import DataError

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.5, 0.0]])
TEACHER = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 0.5]])
LABELS = torch.tensor([0, 0, 0, 1])


def test_a_classification_evaluation_has_the_values_of_the_metrics():
    found = find_task("classification").evaluate(LOGITS, LABELS, TEACHER)
    assert found.accuracy == 0.5
    assert found.retained == 0.5  # the teacher is correct on all four
    assert found.agreement == 0.5
    assert found.nll == metrics.nll(LOGITS, LABELS)
    assert found.ece == metrics.ece(LOGITS, LABELS, bins=15)
    assert found.count == 4


def test_a_student_can_be_better_than_its_teacher():
    assert find_task("classification").evaluate(TEACHER, LABELS, LOGITS).retained == 2


def test_without_a_teacher_nothing_is_compared():
    found = find_task("classification").evaluate(LOGITS, LABELS)
    assert found.agreement is None
    assert found.retained is None


def test_a_teacher_without_correct_predictions_gives_no_retained_share():
    labels = 1 - TEACHER.argmax(dim=1)
    assert find_task("classification").evaluate(LOGITS, labels, TEACHER).retained is None


def test_a_teacher_of_other_classes_is_refused():
    with pytest.raises(DataError, match="same shape"):
        find_task("classification").evaluate(LOGITS, LABELS, torch.zeros(4, 3))


def test_evaluations_are_read_without_torch():
    code = "import sys, nas_distill.tasks; nas_distill.tasks.task_names(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_multilabel_evaluation_has_the_values_of_the_metrics():
    from nas_distill.evaluate import multilabel

    logits, teacher = torch.tensor([[2.0, -1.0], [-1.0, 1.0], [1.0, 2.0]]), torch.tensor([[1.0, 1], [-1, 1], [-1, 1]])
    labels = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    found = find_task("multilabel").evaluate(logits, labels, teacher)
    assert found.quality == found.mean_average_precision == multilabel.mean_average_precision(logits, labels)
    assert (found.f1, found.nll) == (multilabel.macro_f1(logits, labels), multilabel.label_nll(logits, labels))
    assert found.ece == multilabel.label_ece(logits, labels)
    assert found.agreement == 4 / 6
    assert found.retained == found.quality / multilabel.mean_average_precision(teacher, labels)
    assert (found.count, found.error >= 0) == (3, True)
    alone = find_task("multilabel").evaluate(logits, labels)
    assert (alone.agreement, alone.retained, alone.nll) == (None, None, found.nll)


def test_a_regression_evaluation_has_the_values_of_the_metrics():
    from nas_distill.evaluate import regression

    outputs, teacher, targets = (torch.tensor(rows)[:, None] for rows in ([1.0, 2, 4], [1.0, 2, 2], [1.0, 2, 3]))
    found = find_task("regression").evaluate(outputs, targets, teacher)
    assert found.quality == found.r2 == regression.r2(outputs, targets) == 0.5
    assert (found.rmse, found.mae) == (regression.rmse(outputs, targets), regression.mae(outputs, targets))
    assert found.agreement == regression.r2(outputs, teacher)
    assert (found.retained, found.count) == (1.0, 3)
    alone = find_task("regression").evaluate(outputs, targets)
    assert (alone.agreement, alone.retained) == (None, None)
    still = find_task("regression").evaluate(outputs, targets, torch.zeros(3, 1))
    assert (still.agreement, still.retained) == (None, None)


@pytest.mark.parametrize("task", ["multilabel", "regression", "classification"])
def test_records_of_all_tasks_are_read_back(task):
    labels = torch.tensor([[1.0, 0], [0, 1]])
    one = (LOGITS, LABELS, TEACHER) if task == "classification" else (labels, labels, labels)
    found = find_task(task).evaluate(*one)
    assert read_evaluation(vars(found), task) == found
    assert found.error >= 0
