import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from nas_distill.common.errors import DataError
from nas_distill.evaluate import metrics
from nas_distill.evaluate.report import evaluate_logits, evaluate_outputs, read_evaluation

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.5, 0.0]])
TEACHER = torch.tensor([[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.0, 0.5]])
LABELS = torch.tensor([0, 0, 0, 1])


def test_figures_are_those_of_the_metrics():
    found = evaluate_logits(LOGITS, LABELS, TEACHER)
    assert found.accuracy == 0.5
    assert found.retained == 0.5  # the teacher is right on all four
    assert found.agreement == 0.5
    assert found.nll == metrics.nll(LOGITS, LABELS)
    assert found.ece == metrics.ece(LOGITS, LABELS, bins=15)
    assert found.count == 4


def test_a_student_may_be_better_than_its_teacher():
    assert evaluate_logits(TEACHER, LABELS, LOGITS).retained == 2


def test_without_a_teacher_nothing_is_compared():
    found = evaluate_logits(LOGITS, LABELS)
    assert found.agreement is None
    assert found.retained is None


def test_a_teacher_that_is_never_right_retains_nothing_and_divides_by_nothing():
    labels = 1 - TEACHER.argmax(dim=1)
    assert evaluate_logits(LOGITS, labels, TEACHER).retained is None


def test_a_teacher_of_other_classes_is_an_error():
    with pytest.raises(DataError, match="one shape"):
        evaluate_logits(LOGITS, LABELS, torch.zeros(4, 3))


def test_figures_are_read_without_torch():
    code = "import sys, nas_distill.evaluate.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures_of_labels_are_those_of_the_metrics():
    from nas_distill.evaluate import multilabel

    logits, teacher = torch.tensor([[2.0, -1.0], [-1.0, 1.0], [1.0, 2.0]]), torch.tensor([[1.0, 1], [-1, 1], [-1, 1]])
    labels = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    found = evaluate_outputs(logits, labels, teacher, task="multilabel")
    assert found.quality == found.mean_average_precision == multilabel.mean_average_precision(logits, labels)
    assert (found.f1, found.nll) == (multilabel.macro_f1(logits, labels), multilabel.label_nll(logits, labels))
    assert found.ece == multilabel.label_ece(logits, labels)
    assert found.agreement == 4 / 6
    assert found.retained == found.quality / multilabel.mean_average_precision(teacher, labels)
    assert (found.count, found.error >= 0) == (3, True)
    alone = evaluate_outputs(logits, labels, task="multilabel")
    assert (alone.agreement, alone.retained, alone.nll) == (None, None, found.nll)


def test_figures_of_targets_are_those_of_the_metrics():
    from nas_distill.evaluate import regression

    outputs, teacher, targets = (torch.tensor(rows)[:, None] for rows in ([1.0, 2, 4], [1.0, 2, 2], [1.0, 2, 3]))
    found = evaluate_outputs(outputs, targets, teacher, task="regression")
    assert found.quality == found.r2 == regression.r2(outputs, targets) == 0.5
    assert (found.rmse, found.mae) == (regression.rmse(outputs, targets), regression.mae(outputs, targets))
    assert found.agreement == regression.r2(outputs, teacher)
    assert (found.retained, found.count) == (1.0, 3)
    alone = evaluate_outputs(outputs, targets, task="regression")
    assert (alone.agreement, alone.retained) == (None, None)
    still = evaluate_outputs(outputs, targets, torch.zeros(3, 1), task="regression")
    assert (still.agreement, still.retained) == (None, None)


def test_a_record_is_read_back_whatever_its_task():
    labels = torch.tensor([[1.0, 0], [0, 1]])
    for found in (
        evaluate_logits(LOGITS, LABELS, TEACHER),
        evaluate_outputs(labels, labels, labels, task="multilabel"),
        evaluate_outputs(labels, labels, labels, task="regression"),
        evaluate_outputs(LOGITS, LABELS, TEACHER, task="classification"),
    ):
        assert read_evaluation(asdict(found)) == found
        assert found.error >= 0
    assert evaluate_outputs(LOGITS, LABELS, TEACHER, task="classification") == evaluate_logits(LOGITS, LABELS, TEACHER)
