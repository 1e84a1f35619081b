import copy

import pytest
import torch
from torch import nn

from nas_distill.distill.schedule import AveragedWeights


def slow_average(history, initial, horizon):
    """The textbook recursion, one number at a time, in float64."""
    average = {key: value.double() for key, value in initial.items()}
    for step, state in enumerate(history, start=1):
        share = 1.0 if horizon <= 1 else max(1 / horizon, 9 / (9 + step))
        for key, value in state.items():
            average[key] = (1 - share) * average[key] + share * value.double()
    return average


@pytest.mark.parametrize("horizon", [0, 0.5, 1, 3, 20, 1000])
def test_weights_and_statistics_follow_the_slow_recursion(make_model, horizon):
    torch.manual_seed(0)
    model = make_model().train()
    averaged = AveragedWeights(model, horizon)
    initial, history = copy.deepcopy(model.state_dict()), []
    for step in range(1, 31):
        with torch.no_grad():
            model(torch.randn(4, 1, 6, 6))  # moves the running statistics
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight))
        averaged.update(step)
        history.append(copy.deepcopy(model.state_dict()))
    expected = slow_average(history, initial, horizon)
    for key, value in averaged.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-4, atol=1e-5)
        else:
            assert int(value) == 30, key  # counters are not averaged


def test_a_horizon_of_zero_is_the_module_itself(make_model):
    model = make_model()
    averaged = AveragedWeights(model, 0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 1e4)
    averaged.update(7)
    assert all(torch.equal(a, b) for a, b in zip(averaged.module.state_dict().values(), model.state_dict().values()))


def test_the_first_weights_are_forgotten_early(make_model):
    model = make_model()
    with torch.no_grad():
        model[5].weight.fill_(1.0)
    averaged = AveragedWeights(model, 1000)
    with torch.no_grad():
        model[5].weight.fill_(0.0)
    for step in range(1, 31):
        averaged.update(step)
    assert 0 <= float(averaged.module[5].weight.max()) < 1e-4


def test_it_is_a_frozen_copy_in_eval_mode(make_model):
    model = make_model().train()
    averaged = AveragedWeights(model, 10)
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(part.training for part in averaged.module.modules())
    assert not any(weight.requires_grad for weight in averaged.module.parameters())
    assert not {id(w) for w in model.parameters()} & {id(w) for w in averaged.module.parameters()}


class ReplacesItsBuffer(nn.Module):
    """Statistics kept as many write them: a new tensor each time, with the graph still on it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.mean = 0.5 * self.mean + 0.5 * (x * self.weight).mean().reshape(1)
        return x


def test_a_buffer_that_is_replaced_is_still_followed():
    model = ReplacesItsBuffer()
    averaged = AveragedWeights(model, 0)
    for step in range(1, 4):
        model(torch.full((2,), 8.0))
        averaged.update(step)
    assert float(averaged.module.mean) == 7.0
    assert not averaged.module.mean.requires_grad
    assert averaged.module.nothing is None


def test_tied_weights_and_shared_buffers_are_averaged_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    shared = torch.zeros(2)
    for part in model:
        part.register_buffer("shared", shared)
    averaged = AveragedWeights(model, 1000)
    assert averaged.module[0].weight is averaged.module[1].weight
    with torch.no_grad():
        model[0].weight.fill_(10.0)
        shared.fill_(10.0)
        averaged.module[0].weight.fill_(0.0)
    averaged.update(1)
    assert averaged.module[1].weight.flatten().tolist() == pytest.approx([9.0] * 4)
    assert averaged.module[1].shared.tolist() == pytest.approx([9.0] * 2)
