import pytest

import nas_distill as nd
from nas_distill.config import SearchFile, parse
from nas_distill.runs.folder import RunFolder
from nas_distill.study.observer import Silent
from nas_distill.study.problem import resolve
from nas_distill.study.signals import describe_compared_layers, store_contents, teacher_signal
from nas_distill.teacher import LiveSignal, TeacherStore

KD = ["cross_entropy", "kd"]


def problem_of(score, final, **teacher):
    content = {
        "data": "fashion-mnist",
        "teacher": {"name": "fashion-resnet", **teacher},
        "space": "resnet",
        "score": {"loss": score},
        "final": {"loss": final},
    }
    return resolve(parse(SearchFile, content, source="test"))


def reductions(problem, training):
    return {feature.reduction for feature in store_contents(problem, training).features}


def test_scores_and_finalists_store_what_their_own_loss_reads():
    problem = problem_of(KD, [*KD, "at", "hint"])
    assert reductions(problem, problem.config.score.training) == set()
    assert reductions(problem, problem.config.final.training) == {"attention", "full"}


def test_the_teacher_runs_live_only_for_answers_that_cannot_be_stored(given, tmp_path):
    config = {
        "data": {"name": "digits"},
        "teacher": {"name": "fashion-resnet"},
        "space": "resnet",
        "score": {"loss": [*KD, "rkd"]},
        "final": {"loss": [*KD, "hint"]},
    }
    problem = resolve(
        parse(SearchFile, config, source="test"),
        data=given["data"],
        teacher=given["teacher"],
        space=given["space"],
        builder=given["builder"],
    )
    folder = RunFolder(tmp_path / "run")
    stored = teacher_signal(problem, folder, Silent(), problem.config.score.training)
    assert isinstance(stored, TeacherStore)
    assert [feature.reduction for feature in stored.features] == ["pooled"]
    live = teacher_signal(problem, folder, Silent(), problem.config.final.training)
    assert isinstance(live, LiveSignal)
    assert live.features


def test_compared_layers_are_reported_before_training():
    problem = problem_of(KD, [*KD, "at"])
    said = describe_compared_layers(problem, problem.candidates())
    assert len(said) == 1
    assert said[0].startswith("'at' compares, in the smallest student: ")
    assert said[0].count(" from ") == 3


def test_feature_losses_leave_a_plain_student(given, quick, tmp_path):
    final = {**quick["final"], "loss": [{"name": "cross_entropy"}, {"name": "kd"}, {"name": "hint", "weight": 1.0}]}
    quick = {**quick, "final": final}
    run = nd.search(**{**given, "budget": None}, folder=tmp_path / "run", **quick)
    student = run.best().student()
    weights = set(student.module.state_dict())
    assert weights == set(run.best().build().state_dict())
    card = (tmp_path / "run" / "card.md").read_text()
    assert "1 x hint" in card


@pytest.mark.parametrize("by", ["mean", "confidence"])
def test_a_search_with_two_teachers(given, quick, tmp_path, by):
    teachers = [given["teacher"], given["builder"](8, 1, (1, 8, 8), 4)]
    run = nd.search(**{**given, "teacher": teachers, "budget": None}, folder=tmp_path / "run", **quick)
    assert run.finished
    assert len(run.problem.others) == 1
    assert len(list((tmp_path / ".teacher-store").glob("[0-9a-f]*"))) == 2
