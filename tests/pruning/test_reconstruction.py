"""Least-squares reconstruction of layers that lose inputs."""

import copy
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_distill.pruning.plan import Group, KeptUnits, Plan, Slot
from nas_distill.pruning.reconstruction import input_moments, reconstruct
from nas_distill.pruning.surgery import prune
from nas_distill.utils.seeds import seeded_torch
from tests.pruning.networks import CLASSES, NETWORKS, SHAPE, data_of, images, planned
from tests.pruning.test_students import cuts_of, space_of


def plan_of(size, *slots):
    """Return the plan of one group with consecutive units."""
    indices = tuple((unit,) for unit in range(size))
    made = tuple(Slot(name, side, indices) for name, side in slots)
    return Plan((Group("units", "channels", size, made, None),), (), ())


def hidden(size=6, bias=True):
    """Two linear layers, and the plan of the hidden units between them."""
    with seeded_torch(0, "hidden"):
        module = nn.Sequential(nn.Linear(4, size), nn.ReLU(), nn.Linear(size, CLASSES, bias=bias)).eval()
    return module, plan_of(size, ("0", "out"), ("2", "in"))


def pruned(module, plan, what, moments):
    made = copy.deepcopy(module)
    reconstruct(made, plan, what, moments)
    return prune(made, plan, what)


def without_ridge():
    return patch("nas_distill.pruning.reconstruction.RIDGE", 1e-9)


def test_a_unit_that_depends_on_others_is_reconstructed_exactly():
    module, plan = hidden()
    with torch.no_grad():  # unit 5 is twice unit 0, unit 3 never fires
        module[0].weight[5], module[0].bias[5] = 2 * module[0].weight[0], 2 * module[0].bias[0]
        module[0].weight[3], module[0].bias[3] = 0, -1
    data = data_of((4,))
    what = KeptUnits({"units": (0, 1, 2, 4)})
    x = data.batch("val", torch.arange(20))[0]
    with without_ridge():
        made = pruned(module, plan, what, input_moments(module, plan, data, 200))
    assert torch.allclose(made(x), module(x), atol=1e-3)
    assert not torch.allclose(prune(copy.deepcopy(module), plan, what)(x), module(x), atol=0.1)


@pytest.mark.parametrize("offset", [0.0, 3.0, 30.0])
def test_the_mean_of_inputs_does_not_matter(offset):
    """The bias compensates for the mean, so the ridge is a share of the variance."""
    module, plan = hidden(10)
    data = data_of((4,))
    moved = copy.deepcopy(module)
    with torch.no_grad():  # the same network with the offset added to all hidden units
        module[1], moved[1] = nn.Identity(), nn.Identity()
        moved[0].bias += offset
        moved[2].bias -= offset * moved[2].weight.sum(1)
    what = KeptUnits({"units": (0, 1, 2, 4, 7)})
    x = data.batch("val", torch.arange(20))[0]
    errors = []
    for one in (module, moved):
        made = pruned(one.double(), plan, what, input_moments(one.float(), plan, data, 200))
        errors.append(float((made(x) - one(x)).detach().square().mean()))
    assert errors[1] == pytest.approx(errors[0], rel=0.05, abs=1e-9)


def test_a_bias_compensates_for_constant_inputs():
    module, plan = hidden()
    with torch.no_grad():
        module[0].weight[2], module[0].bias[2] = 0, 3
    data = data_of((4,))
    x = data.batch("val", torch.arange(20))[0]
    made = pruned(module, plan, KeptUnits({"units": (0, 1, 3, 4, 5)}), input_moments(module, plan, data, 200))
    assert torch.allclose(made(x), module(x), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 9), min_size=1, max_size=9), st.integers(0, 1000), st.booleans())
def test_reconstruction_minimises_the_change_of_outputs(kept, seed, bias):
    """On the measured samples it is not worse than pruning only, and small changes of the weights are not better."""
    module, plan = hidden(10, bias)
    data = data_of((4,), seed=seed)
    looked = data.batch("train", torch.arange(len(data.train)))[0]
    what = KeptUnits({"units": tuple(sorted(kept))})
    with without_ridge():
        made = pruned(module, plan, what, input_moments(module, plan, data, len(data.train)))

    def error(student):
        return float((student(looked) - module(looked)).double().square().mean())

    with torch.no_grad():
        least = error(made)
        assert least <= error(prune(copy.deepcopy(module), plan, what)) + 1e-9
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            other = copy.deepcopy(made)
            for weight in other[2].parameters():
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
            assert error(other) > least


@pytest.mark.parametrize("name", NETWORKS)
def test_with_nothing_cut_nothing_changes(name):
    module, plan = planned(name)
    whole = cuts_of(name).unpruned.units(plan)
    made = pruned(module, plan, whole, input_moments(module, plan, data_of(SHAPE, 40), 30))
    assert torch.equal(made(images()), module(images()))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 10**6))
def test_reconstructed_random_students_have_the_shapes_of_plain_cuts_and_run(name, seed):
    module, plan = planned(name)
    what = cuts_of(name).decode(space_of(name).sample(np.random.default_rng(seed))).units(plan)
    moments = input_moments(module, plan, data_of(SHAPE, 40), 30)
    with seeded_torch(0, "inheritance"):
        made, plain = pruned(module, plan, what, moments), prune(copy.deepcopy(module), plan, what)
    shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (made, plain)]
    assert shapes[0] == shapes[1]
    assert made(images()).isfinite().all()


@pytest.mark.parametrize("name", ["residual", "mobile", "concatenating", "flattening", "transformer", "own_attention"])
def test_only_layers_that_read_removed_units_are_changed(name):
    """Also if one layer reads several groups, and behind a flatten."""
    module, plan = planned(name)
    group = max(plan.groups, key=lambda group: group.size)
    reading = [slot for slot in group.slots if slot.side == "in"]
    moments = input_moments(module, plan, data_of(SHAPE, 40), 30)
    changed = copy.deepcopy(module)
    reconstruct(changed, plan, KeptUnits({group.name: tuple(range(group.size // 2))}), moments)
    touched = {
        key.rpartition(".")[0]
        for (key, new), old in zip(changed.state_dict().items(), module.state_dict().values())
        if not torch.equal(new, old)
    }
    assert touched <= {slot.module for slot in reading}
    assert touched & set(moments)


def test_layers_that_share_a_weight_are_not_changed():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.left, self.right = nn.Linear(4, 8), nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)
            self.right.weight = self.left.weight

        def forward(self, x):
            hidden = self.first(x).relu()
            return self.left(hidden) + self.right(hidden)

    plan = plan_of(8, ("first", "out"), ("left", "in"), ("right", "in"))
    assert input_moments(Tied().eval(), plan, data_of((4,)), 100) == {}


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 4, 3)])
def test_grouped_and_transposed_convolutions_are_not_changed(layer):
    module = nn.Sequential(nn.Conv2d(1, 4, 1), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))
    plan = plan_of(4, ("0", "out"), ("1", "in"))
    assert input_moments(module, plan, data_of((1, 6, 6), 60), 50) == {}


def test_a_layer_that_is_too_wide_is_not_changed(monkeypatch):
    module, plan = hidden()
    monkeypatch.setattr("nas_distill.pruning.reconstruction.MAX_INPUTS", 5)
    assert input_moments(module, plan, data_of((4,)), 100) == {}


def test_moments_are_those_of_inputs():
    module, plan = hidden()
    data = data_of((4,))
    found = input_moments(module, plan, data, len(data.train))
    with torch.no_grad():
        inputs = module[1](module[0](data.batch("train", torch.arange(len(data.train)))[0]))
    assert set(found) == {"2"}
    assert torch.allclose(found["2"].mean, inputs.mean(0), atol=1e-5)
    assert torch.allclose(found["2"].second, inputs.T @ inputs / len(inputs), atol=1e-4)


def test_all_kernel_positions_of_a_convolution_share_one_estimate():
    """A map that is the sum of two others is reconstructed from them at all kernel positions."""
    with seeded_torch(0, "maps"):
        first, second = nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 5, 3, padding=1, bias=False)
        module = nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES)).eval()
    with torch.no_grad():
        first.weight[2] = first.weight[0] + first.weight[1]
    plan = plan_of(3, ("0", "out"), ("1", "in"))
    data = data_of((1, 6, 6), 60)
    with without_ridge():
        made = pruned(module, plan, KeptUnits({"units": (0, 1)}), input_moments(module, plan, data, 50))
    x = data.batch("val", torch.arange(4))[0]
    assert torch.allclose(made(x), module(x), atol=1e-3)
    assert made[0].out_channels == 2
