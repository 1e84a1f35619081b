import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.data import Dataset
from nas_distill.data.splits import random_indices
from nas_distill.pruning.statistics import recalibrate_batch_norm


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return Dataset.from_tensors(rng.normal(3.0, 2.0, (400, 4)).astype(np.float32), np.arange(400) % 2, val=0.25)


def network():
    return nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_recalibrated_statistics_are_those_of_training_samples(data):
    module = network()
    recalibrate_batch_norm(module, data, samples=256)
    seen = data.batch("train", random_indices(300, 256))[0]
    halves = seen.split(128)
    assert torch.allclose(module[0].running_mean, seen.mean(0), atol=1e-5)
    assert torch.allclose(module[0].running_var, (halves[0].var(0) + halves[1].var(0)) / 2, atol=1e-4)
    # The inputs of a later layer are outputs of the layer before it on full batches, without dropout.
    outputs = torch.cat(
        [module[2]((half - half.mean(0)) / (half.var(0, unbiased=False) + 1e-5).sqrt()) for half in halves]
    )
    assert torch.allclose(module[3].running_mean, outputs.mean(0), atol=1e-4)


def test_samples_are_drawn_from_all_of_a_split_sorted_by_class():
    """Samples of four classes with different means: the first samples contain only the first class."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 1000)
    x = (10.0 * y[:, None] + rng.normal(size=(4000, 4))).astype(np.float32)
    module = network()
    recalibrate_batch_norm(module, Dataset.from_tensors(x, y, val=(x[::100], y[::100])), samples=512)
    assert torch.allclose(module[0].running_mean, torch.full((4,), 15.0), atol=2)
    assert torch.allclose(module[0].running_var, torch.full((4,), 126.0), rtol=0.2)


def test_recalibration_depends_only_on_module_and_data(data):
    first, second = network(), network()
    second.load_state_dict(first.state_dict())
    second[0].running_mean.fill_(100.0)
    second.train()
    for module in (first, second):
        recalibrate_batch_norm(module, data)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


def test_recalibration_restores_weights_modes_and_momenta(data):
    module = network().train()
    module[3].eval()
    module[0].momentum = 0.3
    before = [weight.clone() for weight in module.parameters()]
    recalibrate_batch_norm(module, data)
    assert [part.training for part in module] == [True, True, True, False, True]
    assert module[0].momentum == 0.3
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters()))


def test_a_network_without_batch_norm_is_not_run(data):
    class Refuses(nn.Module):
        def forward(self, x):
            raise AssertionError

    recalibrate_batch_norm(Refuses(), data)
