"""Every loss on features in a training: a residual network that learns from a wider one."""

import math

import pytest
import torch

from nas_distill.config import TermConfig, TrainingConfig
from nas_distill.distill import Distiller
from nas_distill.distill.losses import Batch, find_loss, loss_names
from nas_distill.distill.objective import find_terms
from nas_distill.distill.pairing import teacher_features
from nas_distill.models import resnet
from nas_distill.teacher import LiveSignal, freeze
from nas_distill.utils.checkpoints import read_state

# The losses on layers of convolutional networks: not those on tokens and attention, nor auxiliary tasks.
OTHERS = {"cosine_hidden", "masked_reconstruction", "rotation"}
LOSSES = [
    name for name in loss_names() if find_loss(name).layers in ("stages", "last", "vector") and name not in OTHERS
]
LEARNED = {"hint", "vid", "crd", "reviewkd", "mgd", "cosine_features", "byot"}


def network(*widths, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stages = [{"depth": 1, "width": width} for width in widths]
        return resnet.build(stem=widths[0], stages=stages, input_shape=(1, 6, 6), num_classes=3)


@pytest.fixture
def make_training(data):
    teacher = freeze(network(6, 8, 12, seed=1), data)

    def make(name=None, *, student=(4, 4, 6), teacher=teacher, **options):
        terms = [TermConfig(name="cross_entropy", weight=1.0)]
        if name is not None:
            terms.append(TermConfig.model_validate({"name": name, **options}))
        training = TrainingConfig(epochs=2, batch_size=8, loss=tuple(terms), warmup=0.0)
        x, _ = data.batch("val", torch.arange(3))
        features = teacher_features(find_terms(training.loss), teacher.module, x)
        signal = LiveSignal(teacher, features=features)
        return Distiller(network(*student, seed=0), data, training, signal=signal, seed=4)

    return make


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_all_losses_are_here():
    assert set(LOSSES) >= LEARNED | {"at", "sp", "rkd", "pkt", "nst"}


@pytest.mark.parametrize("name", LOSSES)
def test_it_trains_and_its_own_weights_with_it(make_training, name):
    distiller = make_training(name)
    learned = {key: value.detach().clone() for key, value in distiller.objective.named_parameters()}
    assert bool(learned) == (name in LEARNED)
    distiller.advance(6)
    assert math.isfinite(distiller.loss_sum)
    for key, value in distiller.objective.named_parameters():
        # A convolution's bias in front of a batch norm would not move; there is none.
        assert not torch.equal(value, learned[key]), key
    plain = make_training()
    plain.advance(6)
    assert not same(copied(distiller.model), copied(plain.model)), "the loss taught the student nothing"
    student, wanted = distiller.student(), plain.student()
    assert [(k, v.shape) for k, v in student.named_parameters()] == [(k, v.shape) for k, v in wanted.named_parameters()]
    assert student.state_dict().keys() == wanted.state_dict().keys()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())


@pytest.mark.parametrize("name", LOSSES)
def test_stopped_and_resumed_it_ends_bit_for_bit_the_same(make_training, tmp_path, name):
    whole = make_training(name)
    whole.advance(9)
    first = make_training(name)
    first.advance(4)
    first.save(tmp_path)
    second = make_training(name)
    assert second.load(tmp_path)
    assert same(copied(second.objective), copied(first.objective))
    second.advance(9)
    assert same(copied(second.model), copied(whole.model))
    assert same(copied(second.objective), copied(whole.objective))
    assert same(copied(second.averaged.module), copied(whole.averaged.module))
    assert second.loss_sum == whole.loss_sum


def test_the_banks_are_in_the_checkpoint(make_training, tmp_path):
    distiller = make_training("crd")
    before = copied(distiller.objective)
    distiller.advance(6)
    distiller.save(tmp_path)
    saved = read_state(tmp_path / "state.pt")["objective"]
    (key,) = [key for key in saved if key.endswith("banks")]
    assert saved[key].shape == (2, 48, 128)
    # One epoch of 6 steps has seen and remembered every sample.
    assert (saved[key] != before[key]).any(dim=2).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_student_of_fewer_stages_learns_too(make_training, name):
    distiller = make_training(name, student=(4, 6))
    distiller.advance(2)
    assert math.isfinite(distiller.loss_sum)


@pytest.mark.parametrize("name", ["at", "sp", "rkd", "pkt", "nst"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(make_training, data, name):
    """In eval mode, since in train mode the student's batch norms see the batch alone."""
    distiller = make_training(name, student=(6, 8, 12), weight=1.0)
    distiller.model.load_state_dict(distiller.signal.teacher.module.state_dict())
    distiller.model.eval()
    x, labels = data.batch("train", torch.arange(8), 0)
    answer = distiller.signal.answer("train", torch.arange(8), 0, x)
    outputs = distiller._outputs(distiller._forward(x), answer)[1]
    term = distiller.objective.terms[1]
    value = distiller.objective._value(1, term, *outputs, Batch(labels, torch.arange(8), 0.0))
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
