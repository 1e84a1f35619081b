import pytest
import torch

import nas_distill as nd
from nas_distill.evaluate.classification import agreement
from nas_distill.evaluate.predict import predict_logits
from nas_distill.utils.errors import ConfigError, RunError


@pytest.fixture(scope="module")
def run(given, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = {
        "backend": "inline",
        "trials": 3,
        "seeds": 3,
        "pruning": {"rule": "none"},
        "score": {"epochs": 1, "batch_size": 32},
        "final": {"epochs": 1, "batch_size": 32, "count": 1, "baseline": False},
        "latency": {"calibrate": 0, "repeats": 5},
    }
    # A teacher that knows nothing, so that what the students have in common they have from each other.
    with torch.random.fork_rng([]):
        torch.manual_seed(7)
        ignorant = given["builder"](16, 1, (1, 8, 8), 4)
    content = {**given, "teacher": ignorant, "budget": None}
    try:
        return nd.search(**content, folder=tmp_path_factory.mktemp("mutual") / "run", **settings)
    finally:
        torch.set_num_threads(threads)


def answers(student, run):
    data = run.problem.data
    return predict_logits(student.module, data.inputs("val"))


def test_mutual_learning_increases_agreement(run):
    """With an untrained teacher, students of mutual learning agree more than separately distilled ones."""
    loss = [{"name": "cross_entropy", "weight": 1.0}, {"name": "kd", "weight": 2.0, "temperature": 2.0}]
    settings = {"epochs": 3, "batch_size": 32, "loss": loss}
    first, second = run.distill_mutually([0, 1], **settings)
    apart = [run.trial(number).distill(**settings) for number in (0, 1)]
    mutual = (answers(first, run).softmax(1) - answers(second, run).softmax(1)).abs().mean()
    alone = (answers(apart[0], run).softmax(1) - answers(apart[1], run).softmax(1)).abs().mean()
    assert float(mutual) < float(alone)
    assert 0 <= agreement(answers(first, run), answers(second, run)) <= 1
    assert {first.record.number, second.record.number} == {0, 1}


def test_students_of_mutual_learning_are_listed_with_their_trials(run):
    students = run.distill_mutually([0, 1, 2], epochs=1, batch_size=64)
    assert len({student.folder for student in students}) == 3
    for student in students:
        assert set(student.module.state_dict()) == set(run.trial(student.record.number).build().state_dict())
        assert student.key in [other.key for other in run.trial(student.record.number).students()]
        assert student.provenance.kind == "mutual"
        assert set(student.provenance.students) == {other.key for other in students} - {student.key}


@pytest.mark.parametrize("numbers", [[0], [1, 1]])
def test_mutual_learning_needs_two_different_trials(run, numbers):
    with pytest.raises(RunError, match="at least two different trials"):
        run.distill_mutually(numbers)


def test_mutual_learning_needs_a_kd_term(run):
    with pytest.raises(ConfigError, match="no term 'kd'"):
        run.distill_mutually([0, 1], loss=["cross_entropy"])
