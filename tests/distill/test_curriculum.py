import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_distill.config import CurriculumConfig, TermConfig, TrainingConfig
from nas_distill.data import Dataset, load_dataset
from nas_distill.distill import Distiller
from nas_distill.distill.curriculum import curriculum_share, difficulty, easiest
from nas_distill.distill.losses import Outputs


def test_the_share_rises_to_all():
    curriculum = CurriculumConfig(start=0.2, until=0.5)
    assert curriculum_share(0.0, curriculum) == pytest.approx(0.2)
    assert curriculum_share(0.25, curriculum) == pytest.approx(0.6)
    assert curriculum_share(0.5, curriculum) == curriculum_share(0.9, curriculum) == 1


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=20), st.floats(0.01, 1))
def test_none_that_is_left_out_is_easier_than_one_that_counts(values, share):
    values = torch.tensor(values)
    places = easiest(values, share)
    assert 1 <= len(places) <= len(values)
    assert places.tolist() == sorted(set(places.tolist()))
    others = [place for place in range(len(values)) if place not in places.tolist()]
    if others:
        assert float(values[places].max()) <= float(values[others].min())


def test_what_is_hard_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    labels = torch.tensor([0, 1])
    entropy = [math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    np.testing.assert_allclose(difficulty(torch.zeros(2, 2), logits, labels, "teacher_entropy"), entropy, rtol=1e-6)
    np.testing.assert_allclose(difficulty(logits, None, labels, "student_loss"), [math.log(2), math.log(4)], rtol=1e-6)
    assert difficulty(logits, None, labels, "teacher_entropy").tolist() == [0, 0]


def test_outputs_of_some_samples():
    stacked = torch.arange(2 * 3 * 4).reshape(3, 4, 2, 1, 1).float()
    part = Outputs(torch.arange(8.0).reshape(4, 2), (torch.arange(4.0), stacked)).at(torch.tensor([0, 3]))
    assert part.logits.tolist() == [[0, 1], [6, 7]]
    assert part.features[0].tolist() == [0, 3]
    assert torch.equal(part.features[1], stacked[:, [0, 3]])


def noisy_digits():
    """Digits of which four in ten training labels are wrong; validation labels are right."""
    data = load_dataset("digits")
    rng = np.random.default_rng(0)
    labels = data.train.y.copy()
    wrong = rng.random(len(labels)) < 0.4
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, int(wrong.sum()))) % 10
    return Dataset.from_tensors(data.train.x, labels, val=(data.val.x, data.val.y), num_classes=10)


def reached(data, curriculum, seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    training = TrainingConfig(
        epochs=80,
        batch_size=64,
        loss=(TermConfig(name="cross_entropy"),),
        curriculum=curriculum,
        ema=0.0,
        optimizer={"weight_decay": 0.0},
    )
    distiller = Distiller(model, data, training, signal=None, seed=seed)
    distiller.advance(10**6)
    return distiller.quality()


def test_samples_with_wrong_labels_are_left_for_last():
    data = noisy_digits()
    patient = CurriculumConfig(by="student_loss", start=0.5, until=1.0)
    gains = [reached(data, patient, seed) - reached(data, None, seed) for seed in range(3)]
    assert min(gains) > 0
    assert float(np.mean(gains)) > 0.015


def test_it_is_part_of_what_a_checkpoint_belongs_to(tmp_path, make_distiller):
    from nas_distill.utils.errors import TrainingError

    make_distiller().save(tmp_path)
    with pytest.raises(TrainingError, match="another training"):
        make_distiller(curriculum=CurriculumConfig()).load(tmp_path)
