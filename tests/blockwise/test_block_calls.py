from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_distill.blockwise.block_calls import BlockRecorder
from nas_distill.utils.errors import SpaceError


class Masked(nn.Module):
    """Overwrites its input and returns a tuple."""

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


def test_inputs_and_outputs_are_recorded_before_they_are_overwritten():
    network, x = Network(), torch.tensor([[0.0, 3.0]])
    with BlockRecorder(network, ["first", "last"]) as recorder:
        logits, (first, last) = recorder.run(x)
    assert torch.equal(logits, torch.tensor([[0.0, 4.0]]))
    assert torch.equal(first.input, torch.tensor([[-1.0, 2.0]]))
    assert (float(first.args[0]), first.kwargs) == (0.5, {"scale": 4.0})
    assert torch.equal(first.output, torch.tensor([[-2.0, 4.0]]))
    assert first.returned[1] == "more"
    assert torch.equal(last.input, first.output)
    assert torch.equal(last.output, logits)


def test_recording_leaves_no_hooks():
    network = Network()
    with BlockRecorder(network, ["first", "last"]) as recorder:
        recorder.run(torch.ones(1, 2))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())


def test_blocks_that_are_not_called_or_take_no_tensor_are_refused():
    network = Network()
    with (
        BlockRecorder(network, ["first", "idle"]) as recorder,
        pytest.raises(SpaceError, match="block 'idle' was not called"),
    ):
        recorder.run(torch.ones(1, 2))
    network.first.forward = lambda **named: (named["x"],)
    network.forward = lambda x: network.first(x=x)[0]
    with (
        BlockRecorder(network, ["first"]) as recorder,
        pytest.raises(SpaceError, match="block 'first' is not called with a tensor"),
    ):
        recorder.run(torch.ones(1, 2))
