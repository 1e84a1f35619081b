"""Requirements of every task, built-in or a user's own.

``OWN_TASKS=my_package.tasks:MyTask python -m pytest tests/tasks/test_conformance.py`` tests others too.
"""

import os
import sys

import numpy as np
import pytest
import torch

import nas_distill.tasks
from nas_distill.config import TrainingConfig, default_loss
from nas_distill.data import Dataset, load_dataset
from nas_distill.distill.losses import find_loss
from nas_distill.distill.objective import find_terms
from nas_distill.tasks import Task, find_task, infer_task, read_evaluation, registry, task_names
from nas_distill.tasks.regression import Regression
from nas_distill.utils.errors import ConfigError, DataError

N, K = 12, 3


def labels_of(task: Task) -> np.ndarray:
    rng = np.random.default_rng(0)
    given = {
        "(N,) int64": np.arange(N) % K,
        "(N, K) float32": rng.random((N, K)) if isinstance(task, Regression) else np.arange(N * K).reshape(N, K) % 2,
    }[task.stored_as]
    return task.targets(given, N, "here")


def perfect(task: Task, labels: torch.Tensor) -> torch.Tensor:
    """Outputs that match the labels exactly."""
    if labels.dim() == 1:
        return 20.0 * torch.nn.functional.one_hot(labels, K) - 10.0
    return labels.clone() if isinstance(task, Regression) else 20.0 * labels - 10.0


@pytest.fixture(params=[*task_names(), "own", *filter(None, os.environ.get("OWN_TASKS", "").split(","))])
def task(request):
    return find_task(request.getfixturevalue("own") if request.param == "own" else request.param)


@pytest.fixture
def labels(task):
    return torch.from_numpy(labels_of(task))


def test_labels_have_the_stated_type_and_pass_the_check(task, labels):
    assert task.fits(labels.numpy())
    task.check(labels.numpy(), K, "Data 'x'", "here")
    assert task.count_outputs([labels.numpy()]) == K


def test_labels_of_another_length_are_refused(task, labels):
    with pytest.raises(DataError, match=r"^here"):
        task.targets(labels.numpy(), N + 1, "here")


def test_perfect_outputs_have_quality_one_and_noise_less(task, labels):
    noise = torch.randn(N, K, generator=torch.Generator().manual_seed(0))

    assert task.quality(perfect(task, labels), labels) == pytest.approx(1)
    assert task.quality(noise, labels) < 1


def test_constant_quality_is_that_of_the_best_constant_prediction(task, labels):
    if labels.dim() == 1:
        constant = torch.nn.functional.one_hot(labels.mode().values, K).float()
    else:
        constant = labels.mean(dim=0) if isinstance(task, Regression) else torch.zeros(K)
    quality = task.quality(constant.expand(N, K), labels)

    assert task.constant_quality(labels) >= quality - 1e-6
    if task.name in task_names():
        assert task.constant_quality(labels) == pytest.approx(quality)


def test_an_evaluation_has_its_metrics_and_is_read_back(task, labels):
    outputs = perfect(task, labels) + torch.randn(N, K, generator=torch.Generator().manual_seed(1))
    found = task.evaluate(outputs, labels, perfect(task, labels))

    assert isinstance(found, task.record)
    assert found.quality == getattr(found, task.metrics[0].field)
    assert found.count == N
    assert found.error >= 0
    assert all(hasattr(found, figure.field) for figure in task.metrics)
    assert read_evaluation(vars(found), task.name if task.name in task_names() else "classification") == found
    assert task.evaluate(outputs, labels).retained is None


def test_a_network_agrees_with_itself(task, labels):
    outputs = perfect(task, labels)

    assert task.equal_predictions(outputs, outputs).all()
    assert task.evaluate(outputs, labels, outputs).retained == pytest.approx(1)
    assert torch.allclose(task.divergence(outputs, outputs, torch.ones(K)), torch.zeros(N, dtype=torch.double))


def test_perfect_outputs_have_the_smallest_loss(task, labels):
    right, wrong = perfect(task, labels), -perfect(task, labels) + 0.1
    losses = task.losses(torch.stack([right, wrong]), labels)

    assert losses.shape == (2, N)
    assert (losses[0] < losses[1]).all()


def test_a_mixture_of_equal_outputs_equals_them(task, labels):
    outputs = torch.randn(N, K, generator=torch.Generator().manual_seed(2))
    mixed = task.mixture(torch.stack([outputs, outputs]), torch.full((2, N), 0.5), 4.0)

    probabilities = (lambda x: x.softmax(1)) if task.exclusive else (lambda x: x)
    assert torch.allclose(probabilities(mixed), probabilities(outputs), atol=1e-5)


def test_entropy_is_highest_for_uniform_outputs(task):
    if not task.has_entropy:
        with pytest.raises(NotImplementedError):
            task.entropies(torch.zeros(1, K))
        return
    unsure, sure = task.entropies(torch.tensor([[0.0] * K, [9.0, -9.0, -9.0]]))
    assert unsure > sure >= 0


def test_losses_of_a_task_are_those_of_the_default_training(task):
    labels, answers = default_loss(task.name) if task.name in task_names() else TrainingConfig().loss

    assert find_loss(labels.name).name == task.labels_loss
    assert find_loss(answers.name).name == task.answers_loss
    assert not find_loss(labels.name).taught
    assert find_loss(answers.name).taught


def test_quality_decreases_with_noise(task, labels):
    noise = torch.randn(N, K, generator=torch.Generator().manual_seed(3))
    quality = [task.quality(perfect(task, labels) + scale * noise, labels) for scale in (0, 10, 1000)]

    assert quality == sorted(quality, reverse=True)


def test_labels_with_undefined_quality_are_refused(task, labels):
    bad = labels.numpy().copy()
    bad[0] = K if labels.dim() == 1 else np.nan

    with pytest.raises(DataError, match=r"^here"):
        task.check(bad, K, "Data 'x'", "here")


def test_losses_on_labels_have_gradients(task, labels):
    outputs = torch.zeros(N, K, requires_grad=True)
    (slope,) = torch.autograd.grad(task.losses(outputs, labels).sum(), outputs)

    assert slope.isfinite().all()
    assert slope.abs().sum() > 0


def test_a_task_has_the_texts_of_reports(task):
    assert "{count}" in task.purpose
    assert task.output != task.outputs
    assert task.quality_name in (task.metrics[0].title, "graded accuracy")
    assert all(isinstance(word, str) and word for word in (task.name, task.result, task.stored_as))
    assert {figure.form[-1] for figure in task.metrics} <= set("tfg")


def test_losses_of_the_base_task_fit_a_users_own(own):
    assert find_terms(default_loss("classification"), task=own)
    with pytest.raises(ConfigError, match=r"for regression, .* my_tasks:Grades"):
        find_terms(default_loss("regression"), task=own)


def test_built_in_data_can_have_a_users_own_task(own):
    digits = load_dataset("digits", task=own)

    assert digits.task == own
    assert digits.fingerprint != load_dataset("digits").fingerprint
    with pytest.raises(DataError, match="the task classification, not regression"):
        load_dataset("digits", task="regression")


def test_a_task_of_the_package_is_one_file(own, tmp_path, monkeypatch):
    """A file in the folder of tasks registers a task without other changes."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "grades.py").write_text((tmp_path / "my_tasks.py").read_text())
    monkeypatch.setattr(nas_distill.tasks, "__path__", [*nas_distill.tasks.__path__, str(folder)])
    registry._built_in.cache_clear()
    try:
        assert find_task("grades").quality_name == "graded accuracy"
        assert Dataset.from_tensors(np.zeros((20, 2)), np.arange(20) % 5, task="grades").task == "grades"
    finally:
        monkeypatch.undo()
        sys.modules.pop("nas_distill.tasks.grades").Grades.__module__ = "gone"
        registry._built_in.cache_clear()
    assert "grades" not in task_names()


def test_a_users_own_task_is_evaluated_by_its_own_quality(own):
    x, y = np.zeros((20, 2), dtype=np.float32), np.arange(20) % 5
    data = Dataset.from_tensors(x, y, val=0.25, task=own)
    outputs = torch.nn.functional.one_hot((data.labels("val") + 1).clamp(max=4), 5).float()

    assert data.task == own
    assert 0.5 <= find_task(own).quality(outputs, data.labels("val")) < 1


def test_unknown_tasks_and_other_classes_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'regression'"):
        find_task("regresion")
    with pytest.raises(ConfigError, match="not a subclass"):
        find_task("collections:OrderedDict")
    with pytest.raises(ConfigError, match="unknown task 'regresion'"):
        Dataset.from_tensors(np.zeros((4, 2)), np.arange(4) % 2, task="regresion")
    assert infer_task(np.arange(4), "x") in task_names()


def test_divergences_match_values_computed_by_hand():
    ours, wanted = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    variance = torch.tensor([1.0, 2.0, 4.0])
    classes = find_task("classification").divergence(ours, wanted, variance)
    torch.testing.assert_close(classes, (wanted.softmax(1) * (wanted.log_softmax(1) - ours.log_softmax(1))).sum(1))
    p, q = wanted.sigmoid(), ours.sigmoid()
    labels = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
    torch.testing.assert_close(find_task("multilabel").divergence(ours, wanted, variance), labels)
    normal = [torch.distributions.Normal(one, variance.double().sqrt()) for one in (wanted, ours)]
    numbers = torch.distributions.kl_divergence(*normal).sum(1)
    torch.testing.assert_close(find_task("regression").divergence(ours, wanted, variance), numbers)
