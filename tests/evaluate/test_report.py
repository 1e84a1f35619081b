import subprocess
import sys

import pytest
import torch

from nas_distill.common.errors import DataError
from nas_distill.evaluate import metrics
from nas_distill.evaluate.report import evaluate_logits

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
