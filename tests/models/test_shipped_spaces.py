"""The built-in builders with random architectures of their shipped spaces."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas_distill.spaces import load_space
from nas_distill.utils.seeds import seeded_torch

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def candidates(space, count):
    rng = np.random.default_rng(0)
    return [space.smallest(), space.largest(), *space.spread(2, rng), *(space.sample(rng) for _ in range(count))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["mbconv", "resnet"])
def test_random_architectures_train_one_step(name, shape):
    space = load_space(name)
    for architecture in candidates(space, 4):
        with seeded_torch(0):
            model = space.build(architecture, input_shape=shape, num_classes=5)
            x = torch.randn(3, *shape)
        for form in (torch.contiguous_format, torch.channels_last):
            model.to(memory_format=form).zero_grad()
            logits = model(x.to(memory_format=form))
            assert logits.shape == (3, 5)
            torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 4])).backward()
            assert all(
                parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters()
            )


@pytest.mark.parametrize("name", ["mbconv", "resnet"])
def test_channels_after_the_first_layer_are_multiples_of_eight(name):
    space = load_space(name)
    for architecture in candidates(space, 20):
        model = space.build(architecture, input_shape=(1, 28, 28), num_classes=10)
        layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
        assert layers[0].in_channels == 1
        assert all(layer.out_channels % 8 == 0 for layer in layers)
        assert all(layer.in_channels % 8 == 0 for layer in layers[1:])
        assert not [layer for layer in layers if layer.kernel_size == (1, 1) and layer.stride != (1, 1)]


@pytest.mark.parametrize(("name", "low", "high"), [("mbconv", 0.15e6, 15e6), ("resnet", 0.4e6, 35e6)])
def test_the_ends_of_a_space_are_the_cheapest_and_most_expensive(name, low, high):
    space = load_space(name)

    def multiply_adds(architecture):
        model = space.build(architecture, input_shape=(1, 28, 28), num_classes=10).eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 1, 28, 28))
        return counter.get_total_flops() / 2

    rng = np.random.default_rng(0)
    costs = [multiply_adds(space.sample(rng)) for _ in range(20)]
    assert multiply_adds(space.smallest()) < min(low, *costs)
    assert multiply_adds(space.largest()) > max(high, *costs)


@pytest.mark.parametrize("name", ["mbconv", "resnet"])
def test_different_architectures_give_different_networks(name):
    space = load_space(name)
    rng = np.random.default_rng(0)
    base = space.flatten(space.sample(rng))
    with seeded_torch(0):
        reference = str(space.build(space.unflatten(base), input_shape=(1, 28, 28), num_classes=10))
    domains = {}
    space.draw(lambda flat, domain: domains.setdefault(flat, domain) and base[flat])
    for flat, domain in domains.items():
        for value in domain.values:
            if value == base[flat] or flat == "stages.3.depth":
                continue
            changed = space.unflatten({**base, flat: value})
            assert str(space.build(changed, input_shape=(1, 28, 28), num_classes=10)) != reference, (flat, value)
