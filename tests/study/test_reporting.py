"""Notes of the final report."""

import pytest

from nas_distill.runs.metadata import EvaluationRecord, RunMetadata, TeacherRecord
from nas_distill.study.reporting import validation_gap_note
from nas_distill.tasks.classification import ClassificationEvaluation


def metadata_of(validation, test, samples=2000, split="test"):
    tested = ClassificationEvaluation(test, 0.2, 0.01, None, None, 2000)
    return RunMetadata(
        teacher=TeacherRecord(name="t", costs={}, validation=validation),
        evaluation=EvaluationRecord(
            split=split, student="t00000", teacher=vars(tested), students={}, validation_samples=samples
        ),
    )


@pytest.mark.parametrize(
    ("validation", "test", "warned"),
    [(0.97, 0.93, True), (0.94, 0.93, False), (0.93, 0.93, False), (0.90, 0.94, False)],
)
def test_a_teacher_far_better_on_validation_than_on_test_data_gives_a_warning(validation, test, warned):
    assert bool(validation_gap_note(metadata_of(validation, test))) is warned


def test_few_validation_samples_give_no_warning():
    assert validation_gap_note(metadata_of(0.97, 0.93, samples=50)) == []


def test_without_test_data_there_is_no_warning():
    assert validation_gap_note(metadata_of(0.97, 0.93, split="val")) == []
