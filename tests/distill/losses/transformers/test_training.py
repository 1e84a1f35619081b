"""A transformer taught by a deeper and wider one, from the search file's terms to the student."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.config import TrainingConfig
from nas_distill.data import Dataset
from nas_distill.distill import Distiller
from nas_distill.distill.objective import find_terms
from nas_distill.distill.pairing import teacher_features
from nas_distill.teacher import LiveSignal, freeze
from nas_distill.utils.errors import TrainingError

TERMS = [{"name": "kd", "weight": 1.0, "temperature": 2.0}, {"name": "tinybert_hidden"}, {"name": "minilm"}]
TRIPLE = [{"name": "kd", "weight": 5.0, "temperature": 2.0}, {"name": "cross_entropy", "weight": 2.0}, "cosine_hidden"]


class Patches(nn.Module):
    """Torch's transformer as a classifier of the four rows of an image."""

    def __init__(self, layers, width, heads):
        super().__init__()
        self.embed = nn.Linear(4, width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x.flatten(1, 2))).mean(1))


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)

    def images(count):
        y = np.arange(count) % 3
        x = rng.integers(0, 60, (count, 1, 4, 4))
        x[np.arange(count), 0, y] += 150  # the bright row says the class
        return x.astype(np.uint8), y

    data = Dataset.from_tensors(*images(96), val=images(30), test=images(30), mean=(0.3,), std=(0.2,), name="rows")
    return data, freeze(made(4, 12, 3), data)


def made(layers, width, heads, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Patches(layers, width, heads)


def distiller(task, terms, student=None, **keys):
    data, teacher = task
    options = {"epochs": 10, "batch_size": 16, "optimizer": {"name": "adamw", "lr": 0.01}, **keys}
    training = TrainingConfig.model_validate({"loss": terms, **options})
    x, _ = data.batch("val", torch.arange(3))
    features = teacher_features(find_terms(training.loss), teacher.module, x)
    student = student or made(2, 8, 2, seed=1)
    return Distiller(student, data, training, signal=LiveSignal(teacher, features=features), seed=0)


@pytest.mark.parametrize("terms", [TERMS, TRIPLE], ids=["tinybert and minilm", "distilbert"])
def test_the_loss_falls_and_the_student_is_the_student_alone(task, terms):
    training = distiller(task, terms)
    plain = made(2, 8, 2, seed=1)
    projectors = [tuple(weight.shape) for weight in training.objective.parameters()]
    assert projectors == [(12, 8), (12,)]  # one for both layers of tokens; minilm has none
    before = copy.deepcopy(training.objective.state_dict())
    steps = training.steps_per_epoch
    training.advance(steps)
    first = training.loss_sum
    training.advance(9 * steps)
    nine = training.loss_sum
    training.advance(10 * steps)
    assert training.loss_sum - nine < 0.7 * first
    assert any(not torch.equal(value, before[key]) for key, value in training.objective.state_dict().items())
    student = training.student()
    assert {key: value.shape for key, value in student.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in student.modules())
    x, _ = task[0].batch("val", torch.arange(3))
    assert student(x).shape == (3, 3)


def test_every_part_of_the_student_learns_from_the_terms_it_should(task):
    """Relations reach queries, keys and values of the last attention; hidden states all that is before them."""
    for terms, reached, unreached in [
        (["minilm"], "encoder.layers.1.self_attn.in_proj_weight", "encoder.layers.1.linear1.weight"),
        (["minilm_v1"], "encoder.layers.1.self_attn.in_proj_weight", "encoder.layers.1.linear1.weight"),
        (["tinybert_hidden"], "encoder.layers.1.linear1.weight", "head.weight"),
        (["cosine_hidden"], "encoder.layers.1.linear1.weight", "head.weight"),
    ]:
        student = made(2, 9, 3, seed=1)
        before = {key: value.clone() for key, value in student.state_dict().items()}
        sgd = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0}
        distiller(task, terms, student, optimizer=sgd).advance(3)
        after = student.state_dict()
        assert not torch.equal(after[reached], before[reached]), terms
        assert torch.equal(after[unreached], before[unreached]), terms


@pytest.mark.parametrize("name", ["tinybert_attention", "minilm_v1"])
def test_attention_head_by_head_needs_as_many_heads(task, name):
    with pytest.raises(TrainingError, match="student has 2 heads and the teacher 3; take 'minilm'"):
        distiller(task, [name])
    training = distiller(task, [name], made(2, 9, 3))
    training.advance(5)
    assert training.loss_sum > 0


@pytest.mark.parametrize("name", ["minilm", "minilm_v1"])
def test_only_the_attention_that_is_read_is_tapped(task, name):
    training = distiller(task, [name], made(2, 9, 3))
    assert training._tap.names == ("encoder.layers.1.self_attn:qkv",)
    assert [feature.layer.name for feature in training.signal.features] == ["encoder.layers.3.self_attn:qkv"]
    both = distiller(task, [name, "tinybert_attention"], made(2, 9, 3))
    assert both._reads[0].pairs == training._reads[0].pairs
    assert len(both._reads[1].pairs) == 2


@pytest.mark.parametrize("name", ["minilm", "minilm_v1"])
def test_relations_of_the_last_attention_come_nearer_to_the_teacher_s(task, name):
    """By that term alone, on samples that it did not learn from."""
    training = distiller(task, [{"name": name, "weight": 1.0}], made(2, 9, 3, seed=1))
    x, _ = task[0].batch("val", torch.arange(30))

    def divergence():
        answer = training.signal.answer("val", torch.arange(30), None, x)
        with torch.no_grad():
            ((ours, theirs),) = training._outputs(training._forward(x), answer)
            return float(training.objective._value(0, training.objective.terms[0], ours, theirs, None))

    before = divergence()
    training.advance(60)
    assert divergence() < 0.5 * before


def test_embeddings_are_learnt_from_by_name_with_a_projector_of_their_own(task):
    embeddings = {"name": "tinybert_hidden", "layers": [["embed", "embed"]]}
    training = distiller(task, ["tinybert_hidden", embeddings])
    assert [tuple(weight.shape) for weight in training.objective.parameters()] == [(12, 8), (12,)] * 2
    training.advance(3)
    assert training.loss_sum > 0
