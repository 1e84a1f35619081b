from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_distill.blockwise.watching import Watch
from nas_distill.utils.errors import SpaceError


class Masked(nn.Module):
    """Overwrites what it is given, and returns a tuple."""

    def forward(self, x, mask, *, scale):
        made = x.mul_(scale) * mask
        return made, "more"


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last, self.idle = Masked(), nn.ReLU(inplace=True), nn.ReLU()

    def forward(self, x):
        made, _ = self.first(x - 1, torch.tensor(0.5), scale=4.0)
        return self.last(made)


def test_it_tells_what_each_block_was_given_and_returned_before_anybody_overwrote_it():
    network, x = Network(), torch.tensor([[0.0, 3.0]])
    with Watch(network, ["first", "last"]) as watch:
        logits, (first, last) = watch.run(x)
    assert torch.equal(logits, torch.tensor([[0.0, 4.0]]))
    assert torch.equal(first.given, torch.tensor([[-1.0, 2.0]]))
    assert (float(first.rest[0]), first.named) == (0.5, {"scale": 4.0})
    assert torch.equal(first.made, torch.tensor([[-2.0, 4.0]]))
    assert first.output[1] == "more"
    assert torch.equal(last.given, first.made)
    assert torch.equal(last.made, logits)


def test_it_leaves_nothing_on_the_network():
    network = Network()
    with Watch(network, ["first", "last"]) as watch:
        watch.run(torch.ones(1, 2))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_blocks_that_are_not_called_or_take_no_tensor_are_named():
    network = Network()
    with Watch(network, ["first", "idle"]) as watch, pytest.raises(SpaceError, match="block 'idle' was not called"):
        watch.run(torch.ones(1, 2))
    network.first.forward = lambda **named: (named["x"],)
    network.forward = lambda x: network.first(x=x)[0]
    with (
        Watch(network, ["first"]) as watch,
        pytest.raises(SpaceError, match="block 'first' is not called with a tensor"),
    ):
        watch.run(torch.ones(1, 2))
