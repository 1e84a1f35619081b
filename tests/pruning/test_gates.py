"""Per-sample derivatives with respect to gates, also of networks that reshape the batch."""

import copy

import pytest
import torch
from torch import nn

from nas_distill.data.splits import random_indices
from nas_distill.pruning.gates import GatedNetwork
from nas_distill.pruning.importance import taylor
from nas_distill.pruning.plan import Group, Plan, Slot
from nas_distill.pruning.slots import by_unit, weights_of
from nas_distill.utils.seeds import torch_generator
from tests.pruning.networks import CLASSES, NETWORKS, SHAPE, data_of, planned


def gating(module, group):
    """Return the slots that read a group's units, or, without such, those that make them."""
    reading = [slot for slot in group.slots if slot.side == "in" and weights_of(module, slot)]
    return reading or [slot for slot in group.slots if weights_of(module, slot)]


def one_at_a_time(module, plan, data, samples, seed):
    """The slow reference: a backward pass per sample, and the sum of weight times gradient over gated weights."""
    module = copy.deepcopy(module).double().eval().requires_grad_(True)
    generator = torch_generator(seed, "importance")
    found = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in plan.groups}
    drawn = random_indices(len(data.train), samples)
    for index in drawn.split(64):
        signs = torch.randint(0, 2, (len(index), CLASSES), generator=generator) * 2.0 - 1
        for place, sign in zip(index, signs):
            module.zero_grad(set_to_none=True)
            logits = module(data.batch("train", place[None])[0].double())
            (logits * sign.double()).sum().backward()
            for group in plan.groups:
                derivative = torch.zeros(group.size, dtype=torch.float64)
                for slot in gating(module, group):
                    for weight, axis in weights_of(module, slot):
                        if weight.grad is not None:
                            derivative += by_unit(weight.detach() * weight.grad, axis, slot)
                found[group.name] += derivative.square() / len(drawn)
    return found


def assert_equal_scores(found, wanted):
    assert found.keys() == wanted.keys()
    for name, scores in wanted.items():
        assert torch.allclose(found[name], scores, rtol=2e-3, atol=1e-5 * float(scores.max()) + 1e-12), name


@pytest.mark.parametrize("name", NETWORKS)
def test_taylor_is_squared_per_sample(name):
    module, plan = planned(name)
    data = data_of(SHAPE, 60)
    assert_equal_scores(taylor(module, plan, data, 20, 3), one_at_a_time(module, plan, data, 20, 3))


class Windows(nn.Module):
    """Merges tokens into the batch, as windowed attention does."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(3, 6), nn.Linear(6, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        tokens = x.flatten(2).permute(2, 0, 1).reshape(-1, 3)  # tokens first, samples second
        tokens = self.down(self.up(tokens).relu())
        return self.head(tokens.view(-1, len(x), 4).mean(0))


class Branching(Windows):
    """Branches on a value, which torch cannot vectorise over samples."""

    def forward(self, x):
        return super().forward(x) * (2.0 if x.mean() > 0.5 else 1.0)


class Unread(nn.Module):
    """Units that no layer with weights reads, so that the weights that make them are gated."""

    def __init__(self):
        super().__init__()
        self.up, self.scale, self.head = nn.Linear(3, 6), nn.Parameter(torch.rand(6)), nn.Linear(1, CLASSES)

    def forward(self, x):
        return self.head((self.up(x.mean((2, 3))) * self.scale).relu().sum(1, keepdim=True))


UNITS = tuple((unit,) for unit in range(6))
READ = Plan((Group("up", "neurons", 6, (Slot("up", "out", UNITS), Slot("down", "in", UNITS)), None),), (), ())
MADE = Plan((Group("up", "neurons", 6, (Slot("up", "out", UNITS), Slot("scale", "out", UNITS)), None),), (), ())


@pytest.mark.parametrize(("build", "plan"), [(Windows, READ), (Branching, READ), (Unread, MADE)])
def test_the_batch_may_be_reshaped_or_branched_on(build, plan):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build().eval()
    data = data_of(SHAPE, 60)
    wanted = torch.cat([one_at_a_time(module, plan, data, 20, seed)["up"] for seed in range(2)])
    found = torch.cat([taylor(module, plan, data, 20, seed)["up"] for seed in range(2)])
    assert torch.allclose(found, wanted, rtol=1e-3)


def test_derivatives_equal_finite_differences_of_gates():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Windows().double().eval().requires_grad_(False)
    x = torch.rand(4, *SHAPE, dtype=torch.float64)
    directions = torch.eye(4, CLASSES, dtype=torch.float64)
    found = GatedNetwork(module, {"up": (Slot("down", "in", UNITS),)}, x).derivatives(x, directions)["up"]
    before = module(x)
    module.down.weight[:, 2] *= 1 + 1e-6
    step = ((module(x) - before) * directions).sum(1) / 1e-6
    assert found.shape == (4, 6)
    assert torch.allclose(found[:, 2], step, rtol=1e-4)
    assert not any(part._forward_pre_hooks for part in module.modules())
