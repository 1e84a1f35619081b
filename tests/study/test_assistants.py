from itertools import pairwise

import pytest
import torch

import nas_distill as nd
from nas_distill.evaluate.classification import agreement
from nas_distill.evaluate.predict import predict_logits
from nas_distill.study.assistants import STEP, find_assistant, next_larger
from nas_distill.study.observer import Silent
from nas_distill.utils.errors import RunError


@pytest.fixture(scope="module")
def run(given, tmp_path_factory):
    """A finished search over a wide range of costs, none of its candidates stopped."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    space = {"width": [2, 4, 8, 16], "depth": [1, 2]}
    settings = {
        "backend": "inline",
        "trials": 8,
        "pruning": {"rule": "none"},
        "score": {"epochs": 2, "batch_size": 32},
        "final": {"epochs": 2, "batch_size": 32, "count": 1, "baseline": False},
        "latency": {"calibrate": 0, "repeats": 5},
    }
    try:
        content = {**given, "space": space, "budget": None}
        return nd.search(**content, folder=tmp_path_factory.mktemp("ladder") / "run", **settings)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def front(run, monkeypatch):
    """Put all candidates on the front, since a small network beats all others on this easy task."""
    members = [record for record in run.records if record.state == "complete"]
    monkeypatch.setattr("nas_distill.study.assistants.front_records", lambda records, costs: members)
    return sorted(members, key=lambda record: record.costs["flops"])


def cheapest(run):
    return run.trial(min(run.records, key=lambda record: record.costs["flops"]).number)


def answers(student, run):
    data = run.problem.data
    module = getattr(student, "module", student)
    return predict_logits(module, data.inputs("train"))


def test_assistants_double_the_cost_along_the_front(run):
    trial, costs = cheapest(run), []
    while trial is not None:
        costs.append(trial.record.costs["flops"])
        larger = next_larger(trial)
        trial = None if larger is None else run.trial(larger.number)
    assert len(costs) > 1
    assert all(after >= STEP * before for before, after in pairwise(costs))


def test_a_student_resembles_its_assistant(run):
    trial = cheapest(run)
    only_taught = [{"name": "kd", "weight": 1.0}]
    student = trial.distill(via="front", epochs=6, loss=only_taught)
    assert f"-front-{next_larger(trial).number}" in student.key
    assistant = find_assistant(trial, "front", 6, Silent()).student
    # It answers as its assistant does, more than as the teacher.
    own, theirs = answers(student, run), answers(assistant, run)
    plain = trial.distill(epochs=6, loss=only_taught)
    assert agreement(own, theirs) >= agreement(answers(plain, run), theirs)
    assert not torch.equal(own, answers(plain, run))


def test_a_distilled_assistant_is_not_distilled_again(run):
    trial = cheapest(run)
    first = find_assistant(trial, "front", 2, Silent()).student
    written = first.folder.joinpath("model.safetensors").stat().st_mtime_ns
    assert find_assistant(trial, "front", 2, Silent()).student.key == first.key
    assert first.folder.joinpath("model.safetensors").stat().st_mtime_ns == written


def test_an_updated_student_is_not_an_assistant(run, given):
    """A student updated on other data does not replace its original as an assistant."""
    trial = cheapest(run)
    assistant = find_assistant(trial, "front", 2, Silent()).student
    data = given["data"]
    other = nd.Dataset.from_tensors(data.train.x[:64], data.train.y[:64], val=0.5, num_classes=4)
    assistant.update(other, epochs=2, batch_size=16)
    assert find_assistant(trial, "front", 2, Silent()).student.key == assistant.key


def test_assistants_are_found_by_their_own_teachers(run):
    """Assistants whose numbers have a common prefix are distinguished, whatever the names of their folders."""
    trial = cheapest(run)
    student = trial.distill(via="front", epochs=2)
    assistant = find_assistant(trial, "front", 2, Silent()).student
    assert (student.provenance.kind, student.provenance.students) == ("assisted", (assistant.key,))
    assert student.key not in [other.key for other in trial.students("final")]


def test_the_largest_has_no_assistant(run):
    largest = run.trial(max(run.records, key=lambda record: record.costs["flops"]).number)
    with pytest.raises(RunError, match="has no assistant: no member of the front costs at least 2 times"):
        largest.distill(via="front")


def test_a_student_teaches_a_born_again_one(run):
    best = run.best()
    before = best.student()
    again = best.distill(via="self", epochs=4, loss=[{"name": "kd", "weight": 1.0}])
    assert again.key != before.key
    assert agreement(answers(again, run), answers(before, run)) > 0.8


def test_self_needs_a_student(run):
    others = [record for record in run.records if not run.trial(record.number).students()]
    with pytest.raises(RunError, match="was not distilled in full"):
        run.trial(others[0].number).distill(via="self")
