import torch
from torch import nn

from nas_distill.cut.scramble import scramble, settling
from tests.cut.networks import Pooled, Residual, conv, images


def scrambled(module):
    return scramble(module.eval().requires_grad_(False), torch.Generator().manual_seed(0))


def test_no_weight_is_zero_and_all_differ():
    module = conv(3, 16)
    for weight in module.parameters():
        nn.init.zeros_(weight)
    for weight in scrambled(module).parameters():
        assert len(weight.unique()) == weight.numel()
        assert (weight != 0).all()


def test_nothing_grows_or_fades_with_depth():
    blocks = [Residual(conv(8, 8), act=nn.ReLU()) for _ in range(60)]
    module = scrambled(Pooled(conv(3, 8), blocks, 8))
    with settling(module, torch.Generator().manual_seed(0)):
        settled = module(images())
    assert torch.equal(module(images()), settled)  # what is settled stays, and no hook does
    assert 0.1 < float(settled.abs().max()) < 100
    variances = module.stem[1].running_var
    assert len(variances.unique()) == 8


def test_norms_without_statistics_are_passed_by():
    module = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3))
    with settling(module, torch.Generator()):
        module(images())
    assert not list(module.buffers())
