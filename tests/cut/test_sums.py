import torch
from torch import nn

from nas_distill.common.layers.calls import record
from nas_distill.cut.sums import Sums
from tests.cut.networks import Pooled, Residual, conv, images, make


def seen(module):
    with Sums(module) as sums:
        recording = record(module, images())
    return sums, {call.name: call for call in recording.calls}


def test_residual_blocks_add_and_stages_do_not():
    module = Pooled(conv(3, 16), [nn.Sequential(Residual(conv(16, 16))), conv(16, 16)], 16)
    sums, _ = seen(module)
    assert {name for name, _ in module.named_modules() if sums.residual(name)} == {"blocks.0.0"}


def test_additions_of_all_spellings():
    class Adds(nn.Module):
        def __init__(self, how):
            super().__init__()
            self.how = how

        def forward(self, x):
            return self.how(x, 2 * x)

    def in_place(x, y):
        y += x
        return y

    for how in (torch.add, lambda x, y: x + y, in_place, lambda x, y: x.add(y), lambda x, y: y.add_(x)):
        sums, _ = seen(Pooled(conv(3, 16), [Adds(how)], 16))
        assert sums.residual("blocks.0")
    for how in (torch.mul, lambda x, y: x + 1, lambda x, y: x + y.mean((2, 3), keepdim=True)):
        sums, _ = seen(Pooled(conv(3, 16), [Adds(how)], 16))
        assert not sums.residual("blocks.0")


def test_branches_are_added_around():
    sums, calls = seen(make("residual"))
    around = {name for name, call in calls.items() if call.made is not None and sums.around(name, call.made)}
    assert "blocks.0.body" in around
    assert not {f"blocks.{index}" for index in range(4)} & around


def test_nothing_is_left_behind():
    module = make("residual")
    seen(module)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
