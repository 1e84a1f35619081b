"""Auxiliary tasks in a training: they ask the student again, and leave behind nothing but what it learnt."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from nas_distill.config import CurriculumConfig, TermConfig, TrainingConfig
from nas_distill.data import load_dataset
from nas_distill.distill import Distiller
from nas_distill.distill.losses import Outputs, find_loss, loss_names
from nas_distill.distill.objective import find_terms
from nas_distill.models import resnet
from nas_distill.utils.errors import ConfigError, TrainingError
from nas_distill.utils.layers import Tap, find_layers

TASKS = ["masked_reconstruction", "rotation"]


def network(widths=(4, 4, 6), seed=0, size=6, classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stages = [{"depth": 1, "width": width} for width in widths]
        return resnet.build(stem=widths[0], stages=stages, input_shape=(1, size, size), num_classes=classes)


@pytest.fixture
def make_training(data, make_distiller):
    def make(*terms, model=None, **keys):
        loss = [TermConfig.model_validate({"name": "cross_entropy"}), *terms]
        settings = TrainingConfig(epochs=2, batch_size=8, loss=tuple(loss), warmup=0.0, **keys)
        return make_distiller(network() if model is None else model, settings=settings)

    return make


def task(name, **keys):
    return TermConfig.model_validate({"name": name, **keys})


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_both_are_here_and_need_no_teacher():
    assert set(TASKS) <= set(loss_names())
    assert not any(find_loss(name).taught for name in TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_it_trains_its_head_and_the_student_and_is_no_part_of_it(make_training, name):
    training, plain = make_training(task(name)), make_training()
    before = {key: value.detach().clone() for key, value in training.objective.named_parameters()}
    for distiller in (training, plain):
        distiller.advance(6)
    assert before
    for key, value in training.objective.named_parameters():
        assert not torch.equal(value, before[key]), key
    assert not same(copied(training.model), copied(plain.model))
    student = training.student()
    assert student.state_dict().keys() == plain.student().state_dict().keys()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in student.modules())


@pytest.mark.parametrize("name", TASKS)
def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(make_training, tmp_path, name):
    whole, first, second = (make_training(task(name, warmup=0.5)) for _ in range(3))
    whole.advance(9)
    first.advance(4)
    first.save(tmp_path)
    assert second.load(tmp_path)
    second.advance(9)
    for part in ("model", "objective"):
        assert same(copied(getattr(second, part)), copied(getattr(whole, part)))
    assert same(copied(second.averaged.module), copied(whole.averaged.module))


@pytest.mark.parametrize("name", TASKS)
def test_running_statistics_are_of_the_samples_alone(make_training, name):
    """With a weight that moves nothing, all that the student keeps is what it would keep without the task."""
    training, plain = make_training(task(name, weight=1e-30)), make_training()
    for distiller in (training, plain):
        distiller.advance(5)
    assert any(key.endswith("running_var") for key in training.model.state_dict())
    assert same(copied(training.model), copied(plain.model))
    assert same(copied(training.averaged.module), copied(plain.averaged.module))


class Counting(nn.Module):
    """A student that counts its passes in a buffer, and drops out."""

    def __init__(self):
        super().__init__()
        self.body = network()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes = self.passes + 1
        return self.body(x)


@pytest.mark.parametrize("name", TASKS)
def test_any_buffer_stays_as_the_samples_left_it(make_training, name):
    training = make_training(task(name), model=Counting())
    before = int(training.model.passes)
    training.advance(3)
    assert int(training.model.passes) == before + 3


def test_a_term_sees_what_the_student_saw_and_can_ask_it_again(make_training, data, tmp_path, monkeypatch):
    seen = {}

    def looks(student, teacher, batch):
        seen["x"], seen["index"] = batch.x, batch.index
        other = student.again(batch.x.flip(0))
        seen["logits"], seen["again"] = student.logits, other.logits
        return (student.logits - other.logits.flip(0)).square().mean()

    monkeypatch.setattr("nas_distill.utils.seeds.looks", looks, raising=False)
    training = make_training(task("nas_distill.utils.seeds:looks", weight=0.1), model=network((4,)))
    training.advance(1)
    assert torch.equal(seen["x"], data.batch("train", seen["index"], 0)[0])
    # Batch norms of the same samples in another order: the same answers, in train mode and with gradients.
    torch.testing.assert_close(seen["again"].flip(0), seen["logits"])
    assert seen["again"].requires_grad
    with pytest.raises(TrainingError, match="Only a student in training"):
        Outputs(seen["logits"]).again(seen["x"])


@pytest.mark.parametrize("name", TASKS)
def test_a_curriculum_leaves_out_their_samples_too(make_training, name, monkeypatch):
    counts = []
    made = find_loss(name).make
    forward = made.forward

    def counting(self, student, teacher, batch):
        counts.append((len(batch.x), len(batch.labels)))
        return forward(self, student, teacher, batch)

    monkeypatch.setattr(made, "forward", counting)
    make_training(task(name), curriculum=CurriculumConfig(start=0.5, until=1.0)).advance(1)
    assert counts == [(4, 4)]


def test_layers_are_named_of_the_student_alone(make_training):
    names = [layer.name for layer in find_layers(network(), torch.zeros(3, 1, 6, 6)) if layer.kind == "map"]
    training = make_training(task("masked_reconstruction", layers=(names[0],)))
    assert training._reads[-1].student == (names[0],)
    training.advance(2)
    assert math.isfinite(training.loss_sum)
    with pytest.raises(TrainingError, match="no layer 'stagez'"):
        make_training(task("rotation", layers=("stagez",)))
    with pytest.raises(TrainingError, match="'rotation' reads one layer of the student, but got 2"):
        make_training(task("rotation", layers=tuple(names[:2])))
    with pytest.raises(ConfigError, match="'rotation' reads no layers of the teacher"):
        find_terms([task("rotation", layers=(("a", "b"),))])
    with pytest.raises(ConfigError, match="'hint' compares layers with the teacher's; list pairs"):
        find_terms([task("hint", layers=("a",))])


def probe(distiller, data):
    """Validation accuracy of a linear classifier on the vector before the student's own, trained on all labels."""
    student = distiller.student()
    name = find_layers(student, data.batch("val", torch.arange(3))[0])[-1].name
    tap, vectors = Tap(student, [name]), {}
    for split in ("train", "val"):
        with torch.no_grad(), tap:
            student(data.batch(split, torch.arange(len(data.split(split))))[0])
        vectors[split] = tap.features[name].numpy()
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(vectors["train"], data.train.y)
    return classifier.score(vectors["val"], data.val.y)


class Nobody:
    """A signal that says nothing, so that all that is learnt is learnt of the inputs."""

    num_classes, features = 10, ()

    def answer(self, split, index, view, x):
        from nas_distill.teacher.signal import Answer

        return Answer(torch.zeros(len(index), 10))

    def identity(self):
        return "nobody"

    def check(self, data):
        pass


@pytest.mark.parametrize("name", TASKS)
def test_a_trunk_learns_from_the_task_alone_what_helps_to_tell_the_classes(name, one_thread):
    """Without a label and without a teacher: its features tell the digits better than those of first weights."""
    data = load_dataset("digits")

    def reached(seed, epochs, rate):
        optimizer = {"lr": rate, "weight_decay": 0.0}
        settings = TrainingConfig(epochs=epochs, batch_size=32, loss=(task(name),), optimizer=optimizer)
        student = network((8, 16, 24), seed, size=8, classes=10)
        training = Distiller(student, data, settings, signal=Nobody(), seed=seed)
        training.advance(10**6)
        return probe(training, data)

    # First weights too have running statistics of the data.
    gains = [reached(seed, 6, 0.1) - reached(seed, 1, 1e-12) for seed in range(3)]
    assert min(gains) > 0.02
    assert sum(gains) / 3 > 0.05
