import torch
from torch import nn
from torch.nn import functional

from nas_distill.pruning.randomise import FixedNorms, fitting_statistics, randomise_weights, written_norm
from tests.pruning.networks import Pooled, Residual, conv, images


def randomised(module):
    return randomise_weights(module.eval().requires_grad_(False), torch.Generator().manual_seed(0))


def test_random_weights_are_nonzero_and_distinct():
    module = conv(3, 16)
    for weight in module.parameters():
        nn.init.zeros_(weight)
    for weight in randomised(module).parameters():
        assert len(weight.unique()) == weight.numel()
        assert (weight != 0).all()


def test_activations_neither_grow_nor_vanish_with_depth():
    blocks = [Residual(conv(8, 8), act=nn.ReLU()) for _ in range(60)]
    module = randomised(Pooled(conv(3, 8), blocks, 8))
    with fitting_statistics(module, torch.Generator().manual_seed(0)):
        fitted = module(images())
    assert torch.equal(module(images()), fitted)  # statistics are kept, hooks are removed
    assert 0.1 < float(fitted.abs().max()) < 100
    variances = module.stem[1].running_var
    assert len(variances.unique()) == 8


def test_norms_without_statistics_are_not_changed():
    module = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.InstanceNorm2d(3))
    with fitting_statistics(module, torch.Generator()):
        module(images())
    assert not list(module.buffers())


def test_layer_norms_scale_by_one_factor_per_call():
    norms, x, y = FixedNorms(), torch.randn(2, 5, 4), 7 * torch.randn(2, 5, 4)
    norm = nn.LayerNorm(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with norms.fixed(nn.Identity()):
        torch.testing.assert_close(norm(x), x / x.std() * norm.weight + norm.bias)
        torch.testing.assert_close(functional.layer_norm(y, (4,)), y / y.std())
        torch.testing.assert_close(functional.rms_norm(y, (4,), norm.weight), y / y.std() * norm.weight)
    assert norms.any
    with norms.fixed(nn.Identity()):  # the same calls of a pruned network: channels keep their values
        narrow = functional.layer_norm(x[..., :2], (2,), norm.weight[:2], norm.bias[:2])
        torch.testing.assert_close(narrow, (x / x.std() * norm.weight + norm.bias)[..., :2])
        torch.testing.assert_close(functional.layer_norm(input=y, normalized_shape=(4,)), y / y.std())
    assert not torch.allclose(norm(y), y / y.std() * norm.weight + norm.bias)


def test_only_group_norms_over_all_channels_lose_their_statistics():
    norms, x = FixedNorms(), torch.randn(2, 4, 3, 3)
    single, several = nn.GroupNorm(1, 4), nn.GroupNorm(2, 4)
    nn.init.normal_(single.weight)
    with norms.fixed(nn.Identity()):
        torch.testing.assert_close(single(x), x / x.std() * single.weight[:, None, None])
        torch.testing.assert_close(several(x), functional.group_norm(x.clone(), 2))
    cut, left = nn.GroupNorm(1, 2), x[:, :2]
    statistics = cut(left)
    with norms.fixed(nn.Identity()):  # the same calls of a network pruned to one group
        single(x)
        torch.testing.assert_close(cut(left), statistics)


class Written(nn.Module):
    def __init__(self, offset, epsilon=1e-3):
        super().__init__()
        self.weight, self.offset, self.epsilon = nn.Parameter(torch.randn(4)), offset, epsilon

    def forward(self, x):
        return (self.weight + self.offset) * x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-3)


def test_rms_norms_written_by_hand_are_recognised():
    x = torch.randn(2, 5, 4)
    for offset in (0.0, 1.0):
        module, norms = Written(offset), FixedNorms()
        assert written_norm(module) == (1e-3, offset)
        with norms.fixed(module):
            torch.testing.assert_close(module(x), x / x.std() * (module.weight + offset))
        assert norms.any
        assert not torch.allclose(module(x), x / x.std() * (module.weight + offset))
    assert written_norm(Written(0.5)) is None
    assert written_norm(Written(0.0, epsilon=0.5)) is None
    assert written_norm(nn.Linear(4, 4, bias=False)) is None


def test_a_network_without_such_norms():
    norms = FixedNorms()
    with norms.fixed(nn.Identity()):
        nn.BatchNorm2d(4)(torch.randn(2, 4, 3, 3))
        nn.GroupNorm(2, 4)(torch.randn(2, 4, 3, 3))
    assert not norms.any
