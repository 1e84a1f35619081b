"""Conformance tests of every cost, built in or a user's own.

``OWN_COSTS=my_package.costs:energy python -m pytest tests/costs/test_cost_conformance.py`` tests others too.
"""

import math
import os
import pickle

import pytest
import torch
from torch import nn

from nas_distill.costs import Cost, cost_names, declare_cost, find_cost, format_cost, parse_amount
from nas_distill.costs.model import CostSubject
from nas_distill.utils.errors import ConfigError

SHAPE = (3, 8, 8)
NAMES = [*cost_names(), "own", *filter(None, os.environ.get("OWN_COSTS", "").split(","))]


def network(width: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, width, 3),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(width * 36, 5),
        )


@pytest.fixture(params=NAMES)
def cost(request):
    found = Cost.find(request.getfixturevalue("own") if request.param == "own" else request.param)
    if found.info.name not in cost_names():
        declare_cost(found.info.name, found.info.unit)
    return found


def test_a_cost_is_a_finite_number_of_at_least_0(cost):
    value = cost.compute(CostSubject(network(4), SHAPE))

    assert type(value) is float
    assert math.isfinite(value)
    assert value >= 0


def test_a_much_larger_network_costs_more(cost):
    small, large = (cost.compute(CostSubject(network(width), SHAPE)) for width in (2, 256))

    assert large > small


def test_a_counted_cost_is_reproducible(cost):
    if cost.info.measured:
        pytest.skip("times vary")
    assert cost.compute(CostSubject(network(4), SHAPE)) == cost.compute(CostSubject(network(4), SHAPE))


def test_the_state_of_network_and_generators_is_restored(cost):
    module = network(4).train()
    module[1].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()

    cost.compute(CostSubject(module, SHAPE))

    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in module] == [True, False, True, True, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_cost_can_be_sent_to_a_worker_process(cost):
    copy = pickle.loads(pickle.dumps(cost))

    assert copy == cost


def test_amounts_are_written_and_read_in_its_unit(cost):
    name, value = cost.info.name, 1234.5678
    written = format_cost(name, value)

    assert written.endswith(cost.info.unit) or cost.info.unit == "B"
    assert parse_amount(written, name) == pytest.approx(value, rel=5e-3)
    assert parse_amount(value, name) == value
    assert parse_amount("50%", name, 10.0) == 5.0


def test_options_have_defaults_and_unknown_ones_are_refused(cost, own):
    name = own if cost.info.name == "energy_mj" else cost.info.name
    if cost.info.name not in cost_names() and name != own:
        pytest.skip("a cost from OWN_COSTS may need options")
    spec = find_cost(name)

    assert spec.check({}, "here") == dict(cost.options)
    with pytest.raises(ConfigError, match=r"^here.*unknown key 'colour'"):
        spec.check({"colour": 3}, "here")


def test_a_cost_is_described_in_one_sentence(cost):
    about = find_cost(cost.info.name).about if cost.info.name in cost_names() else cost.function.__doc__

    assert about
    assert not about.lower().startswith(("what ", "which ", "who "))
