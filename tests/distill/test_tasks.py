"""The training loop on data of several labels and of numbers."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.config import CurriculumConfig, TrainingConfig, default_loss
from nas_distill.data import Dataset
from nas_distill.distill import Distiller
from nas_distill.distill.curriculum import difficulty
from nas_distill.distill.objective import find_terms, labels_only
from nas_distill.tasks import find_task
from nas_distill.teacher import LiveSignal, freeze
from nas_distill.utils.errors import ConfigError, TeacherError, TrainingError

TASKS = ["multilabel", "regression"]


def data_of(task, samples=400, seed=0):
    """Three labels, or two numbers, that a wide enough network can tell of eight."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, 8)).astype(np.float32)
    hidden = np.tanh(x @ np.random.default_rng(7).normal(size=(8, 3)))
    y = (hidden + 0.2 * rng.normal(size=hidden.shape) > 0.3).astype(float) if task == "multilabel" else hidden[:, :2]
    return Dataset.from_tensors(x, y, val=0.25, name=task)


def network(outputs, width=16, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, outputs))


def distiller(data, *, teacher=None, loss=None, width=16, **keys):
    options = {"epochs": 8, "batch_size": 20, "optimizer": {"lr": 0.05}, **keys}
    training = TrainingConfig(loss=default_loss(data.task) if loss is None else tuple(loss), **options)
    signal = None if teacher is None else LiveSignal(freeze(teacher, data))
    return Distiller(network(data.num_classes, width), data, training, signal=signal, seed=0)


@pytest.fixture(scope="module", params=TASKS)
def taught(request):
    """Data of a task, and a teacher that knows it."""
    data = data_of(request.param)
    training = distiller(data, width=64, epochs=30)
    training.advance(10**6)
    return data, training.student()


def test_the_labels_alone_teach(taught):
    data, teacher = taught
    training = distiller(data)
    assert [term.config.name for term in training.objective.terms] == [find_task(data.task).labels_loss]
    before = training.quality()
    training.advance(10**6)
    assert training.quality() > before + 0.2
    outputs = training.validation_logits()
    assert training.quality() == find_task(data.task).quality(outputs, data.labels("val"))
    assert find_task(data.task).quality(teacher(data.batch("val", torch.arange(100))[0]), data.labels("val")) > 0.85


def test_a_teacher_teaches_what_it_says(taught):
    """By its answers alone, the labels out of the sum, a student learns the task from it, right or wrong."""
    data, teacher = taught
    alone = [term for term in default_loss(data.task) if term.name == find_task(data.task).answers_loss]
    training = distiller(data, teacher=teacher, loss=alone)
    training.advance(10**6)
    assert training.quality() > 0.75
    inverted = nn.Sequential(teacher, nn.Linear(data.num_classes, data.num_classes, bias=False))
    with torch.no_grad():
        inverted[1].weight.copy_(-torch.eye(data.num_classes))
    wrong = distiller(data, teacher=inverted, loss=alone)
    wrong.advance(10**6)
    x = data.batch("val", torch.arange(100))[0]
    with torch.no_grad():
        said = -teacher(x)
    assert find_task(data.task).quality(-wrong.validation_logits(), data.labels("val")) > 0.75
    assert float((wrong.validation_logits() - said).square().mean()) < float(said.square().mean())


def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(taught, tmp_path):
    data, teacher = taught
    whole, first, second = (distiller(data, teacher=teacher) for _ in range(3))
    whole.advance(40)
    first.advance(17)
    first.save(tmp_path)
    assert second.load(tmp_path)
    second.advance(40)
    for key, value in whole.student().state_dict().items():
        assert torch.equal(value, second.student().state_dict()[key])
    as_other = distiller(data_of("regression" if data.task == "multilabel" else "multilabel"))
    with pytest.raises(TrainingError, match="another training"):
        as_other.load(tmp_path)


def test_losses_of_another_task_are_refused(taught):
    data, teacher = taught
    with pytest.raises(
        ConfigError,
        match=rf"'cross_entropy' is for classification.*{data.task}",
    ):
        distiller(data, teacher=teacher, loss=TrainingConfig().loss)
    assert find_terms(TrainingConfig().loss, task="classification")
    with pytest.raises(ConfigError, match=r"'squared_error' is for regression.*classification"):
        find_terms(default_loss("regression"), task="classification")


def test_without_a_teacher_the_labels_term_keeps_its_options():
    terms = find_terms(default_loss("multilabel"), task="multilabel")
    (left,) = labels_only(terms, "multilabel")
    assert (left.config.name, left.weight) == ("bce", 1.0)
    (fresh,) = labels_only(find_terms(TrainingConfig().loss), "regression")
    assert (fresh.config.name, fresh.weight) == ("squared_error", 1.0)


def test_networks_of_another_number_of_outputs_are_refused(taught):
    data, _ = taught
    what = "labels" if data.task == "multilabel" else "targets"
    with pytest.raises(
        TrainingError, match=rf"with {data.num_classes} {what} it must return \(2, {data.num_classes}\)"
    ):
        Distiller(network(5), data, TrainingConfig(), signal=None, seed=0)
    with pytest.raises(TeacherError, match=f"has 5 {what}, but data '{data.task}' has {data.num_classes}"):
        freeze(network(5), data)
    signal = LiveSignal(freeze(network(3), data_of("multilabel")))
    if data.task == "regression":
        with pytest.raises(TeacherError, match="has 3 targets, but data 'regression' has 2"):
            signal.check(data)


def test_what_is_hard_by_hand():
    logits, labels = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = difficulty(logits, None, labels, "student_loss", "multilabel")
    np.testing.assert_allclose(found, [2 * math.log(2), math.log(4) + math.log(2)], rtol=1e-6)
    entropy = math.log(2) - (0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    found = difficulty(labels, logits, labels, "teacher_entropy", "multilabel")
    np.testing.assert_allclose(found, [2 * math.log(2), entropy], rtol=1e-6)
    found = difficulty(torch.tensor([[1.0, 2.0]]), None, torch.tensor([[2.0, 5.0]]), "student_loss", "regression")
    np.testing.assert_allclose(found, [(1 + 9) / 2], rtol=1e-6)


def test_a_curriculum_orders_their_samples_too(taught):
    data, teacher = taught
    training = distiller(data, teacher=teacher, curriculum=CurriculumConfig(by="student_loss"))
    training.advance(20)
    assert math.isfinite(training.loss_sum)
    if data.task == "regression":
        with pytest.raises(TrainingError, match="student_loss"):
            distiller(data, teacher=teacher, curriculum=CurriculumConfig())
    else:
        distiller(data, teacher=teacher, curriculum=CurriculumConfig()).advance(3)


def test_auxiliary_tasks_and_features_go_with_them(taught):
    data, teacher = taught
    extra = [
        *default_loss(data.task),
        *TrainingConfig.model_validate({"loss": [{"name": "masked_reconstruction", "layers": ["1"]}]}).loss,
    ]
    training = distiller(data, teacher=teacher, loss=extra)
    training.advance(20)
    assert math.isfinite(training.loss_sum)
