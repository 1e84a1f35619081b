import pytest
import torch
from torch import nn

from nas_distill.utils.modules import buffer_slots, device_of, preserved_buffers


class Counter(nn.Module):
    """A module that modifies one buffer in place and replaces another."""

    def __init__(self, shared):
        super().__init__()
        self.register_buffer("shared", shared)
        self.register_buffer("own", torch.zeros(2))
        self.register_buffer("none", None)

    def forward(self, x):
        self.shared += 1
        self.own = self.own + 1
        return x


def network():
    shared = torch.zeros(2)
    return nn.Sequential(Counter(shared), Counter(shared), nn.BatchNorm1d(2))


def test_the_device_is_that_of_parameters_or_else_of_buffers():
    with torch.device("meta"):
        weight, table = nn.Linear(2, 2), Counter(torch.zeros(2))

    assert device_of(weight).type == device_of(table).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"


def test_a_shared_buffer_has_one_slot():
    assert [name for _, name in buffer_slots(network())] == [
        "shared",
        "own",
        "own",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]


def test_buffers_are_restored_and_copies_of_shared_ones_are_shared():
    module = network()
    before = {name: (value, value.clone()) for name, value in module.named_buffers(remove_duplicate=False)}
    with preserved_buffers(module):
        module(torch.randn(4, 2))
        assert module[0].shared is module[1].shared
        assert module[0].shared.tolist() == [2, 2]
        assert int(module[2].num_batches_tracked) == 1
    for name, value in module.named_buffers(remove_duplicate=False):
        held, content = before[name]
        assert value is held
        assert torch.equal(value, content)


def test_buffers_are_restored_after_an_error():
    module = network()
    with pytest.raises(ValueError, match="expected 2D or 3D"), preserved_buffers(module):
        module(torch.randn(4))
    assert module[0].own.tolist() == module[0].shared.tolist() == [0, 0]


def test_tensors_saved_for_an_earlier_backward_pass_are_not_modified():
    module = nn.BatchNorm1d(2)
    value = module(torch.randn(4, 2)).square().sum()
    with preserved_buffers(module):
        value = value + module(torch.randn(4, 2)).square().sum()
    value.backward()
    assert module.weight.grad is not None
