import copy

import numpy as np
import pytest
import torch
from torch import nn

from nas_distill.data import Dataset
from nas_distill.data.splits import random_indices
from nas_distill.pruning.importance import CRITERIA, activation, magnitude, taylor, unit_orders
from nas_distill.pruning.plan import Group, Plan, Slot
from nas_distill.utils.errors import SpaceError

UNITS = 6


def indices(count, run=1):
    return tuple(tuple(range(unit * run, (unit + 1) * run)) for unit in range(count))


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 1.0, (96, 2, 4, 4)).astype(np.float32)
    return Dataset.from_tensors(x, np.arange(96) % 3, val=0.25)


@pytest.fixture
def module():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = nn.Sequential(
            nn.Conv2d(2, UNITS, 3, padding=1), nn.BatchNorm2d(UNITS), nn.ReLU(), nn.Flatten(), nn.Linear(UNITS * 16, 3)
        )
    return made.eval().requires_grad_(False)


@pytest.fixture
def plan():
    slots = (
        Slot("0", "out", indices(UNITS)),
        Slot("1", "out", indices(UNITS)),
        Slot("4", "in", indices(UNITS, 16)),
    )
    return Plan((Group("0", "channels", UNITS, slots, None),), (), ())


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_each_criterion_orders_all_units_and_does_not_change_the_teacher(module, plan, data, criterion):
    before = copy.deepcopy(module.state_dict())
    order = unit_orders(module, plan, data, criterion=criterion)
    assert sorted(order["0"]) == list(range(UNITS))
    assert order == unit_orders(module, plan, data, criterion=criterion)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in module.parameters())
    assert not any(part._forward_pre_hooks for part in module.modules())


@pytest.mark.parametrize("criterion", ["activation", "taylor"])
def test_a_unit_that_no_layer_reads_is_last(module, plan, data, criterion):
    module[4].weight[:, 2 * 16 : 3 * 16] = 0
    assert unit_orders(module, plan, data, criterion=criterion)["0"][-1] == 2


@pytest.mark.parametrize("criterion", ["activation", "taylor"])
def test_a_unit_that_is_always_off_is_last(module, plan, data, criterion):
    module[1].bias[4] = -1000.0
    assert unit_orders(module, plan, data, criterion=criterion)["0"][-1] == 4


@pytest.mark.parametrize("criterion", ["activation", "taylor"])
def test_a_unit_for_the_last_class_of_a_sorted_split_counts(module, plan, criterion):
    """Only unit 5 is active for samples of class 1, which come last and have a feature that no others have."""
    y = np.repeat([0, 1], 200)
    x = np.zeros((400, 2, 4, 4), np.float32)
    x[:200, 0] = 1.0
    x[200:, 1] = 5.0
    module[0].weight.zero_()
    module[0].bias.zero_()
    module[0].weight[:5, 0] = module[0].weight[5, 1] = 1.0
    sorted_by_class = Dataset.from_tensors(x, y, val=(x[::20], y[::20]))
    assert unit_orders(module, plan, sorted_by_class, criterion=criterion, samples=64)["0"][0] == 5


def test_magnitude_is_the_norm_of_filters_divided_by_their_mean(module, plan, data):
    norms = module[0].weight.flatten(1).double().norm(dim=1)
    assert torch.allclose(magnitude(module, plan, data, 8, 0)["0"], norms / norms.mean())


def test_activation_is_the_contribution_of_a_unit(module, plan, data):
    x = data.batch("train", random_indices(len(data.train), 64))[0]
    with torch.no_grad():
        flat = module[:4](x).double()
    squares = flat.square().mean(0).view(UNITS, 16).mean(1)
    norms = module[4].weight.double().square().sum(0).view(UNITS, 16).sum(1)
    assert torch.allclose(activation(module, plan, data, 64, 0)["0"], (squares * norms).sqrt())


class Attending(nn.Module):
    """Tokens of another width as inputs of torch's attention, optionally with separate queries."""

    def __init__(self, width, batch_first, own_queries, named):
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=batch_first)
        self.head = nn.Linear(width, 3)
        self.batch_first, self.own_queries, self.named = batch_first, own_queries, named

    def inputs(self, x):
        tokens = self.embed(x.flatten(1, 2))
        if not self.batch_first:
            tokens = tokens.transpose(0, 1)
        return (tokens.flip(-1) * 3 if self.own_queries else tokens), tokens

    def forward(self, x):
        query, tokens = self.inputs(x)
        if self.named:
            made = self.attention(query=query, key=tokens, value=tokens)[0]
        else:
            made = self.attention(query, tokens, tokens)[0]
        return self.head(made.mean(1 if self.batch_first else 0))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("own_queries", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("width", [4, 8, 24])  # the images below are of eight tokens
def test_activation_reads_the_width_of_attention(data, width, batch_first, own_queries, named):
    with torch.random.fork_rng():
        torch.manual_seed(2)
        module = Attending(width, batch_first, own_queries, named).eval().requires_grad_(False)
    slots = (Slot("embed", "out", indices(width)), Slot("attention", "in", indices(width)))
    plan = Plan((Group("embed", "channels", width, slots, None),), (), ())
    x = data.batch("train", random_indices(len(data.train), 64))[0]
    assert x.flatten(1, 2).shape[1:] == (8, 4)
    query, tokens = (given.double() for given in module.inputs(x))
    weights = module.attention.in_proj_weight.double().square().view(3, width, width).sum(1)
    squares = torch.stack([given.square().mean((0, 1)) for given in (query, tokens, tokens)])
    wanted = (squares.mean(0) * weights.sum(0)).sqrt()
    assert torch.allclose(activation(module, plan, data, 64, 0)["embed"], wanted)


def test_taylor_is_the_mean_squared_derivative_of_the_logits_with_respect_to_a_gate(module, plan, data):
    """Averaged over directions, it is the sum over logits, within the error of random directions."""
    x = data.batch("train", random_indices(len(data.train), 64))[0]
    with torch.no_grad():
        added = module[:4](x).view(64, UNITS, 16)  # logits are linear in gates on what the last layer reads
        weights = module[4].weight.view(3, UNITS, 16)
        derivative = torch.einsum("nup,cup->ncu", added, weights)
    wanted = derivative.double().square().sum((0, 1)) / len(x)
    found = torch.stack([taylor(module, plan, data, 64, seed)["0"] for seed in range(200)]).mean(0)
    assert torch.allclose(found, wanted, rtol=0.35)
    assert not torch.allclose(found, wanted.flip(0), rtol=0.35)


def test_random_scores_depend_on_the_seed(module, plan, data):
    orders = {unit_orders(module, plan, data, criterion="random", seed=seed)["0"] for seed in range(6)}
    assert len(orders) > 1


def test_an_unknown_criterion_suggests_the_nearest_name(module, plan, data):
    with pytest.raises(SpaceError, match="'tailor'; did you mean 'taylor'"):
        unit_orders(module, plan, data, criterion="tailor")
