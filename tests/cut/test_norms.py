import torch
from torch import nn
from torch.nn import functional

from nas_distill.cut.norms import Norms


def test_layer_norms_keep_their_scale_and_shift_alone():
    norms, x = Norms(), torch.randn(2, 5, 4)
    norm = nn.LayerNorm(4)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with norms.plain():
        assert torch.equal(norm(x), x * norm.weight + norm.bias)
        assert torch.equal(functional.layer_norm(x, (4,)), x)
        assert torch.equal(functional.rms_norm(x, (4,), norm.weight), x * norm.weight)
    assert norms.any
    assert not torch.allclose(norm(x), x * norm.weight + norm.bias)


def test_only_group_norms_over_all_channels_lose_their_statistics():
    norms, x = Norms(), torch.randn(2, 4, 3, 3)
    single, several = nn.GroupNorm(1, 4), nn.GroupNorm(2, 4)
    with norms.plain():
        assert torch.equal(single(x), x)
        torch.testing.assert_close(several(x), functional.group_norm(x.clone(), 2))
    cut, left = nn.GroupNorm(1, 2), x[:, :2]
    statistics = cut(left)
    with norms.plain():  # the same calls, of a network cut to one group
        assert torch.equal(single(x), x)
        torch.testing.assert_close(cut(left), statistics)


def test_a_network_without_such_norms():
    norms = Norms()
    with norms.plain():
        nn.BatchNorm2d(4)(torch.randn(2, 4, 3, 3))
        nn.GroupNorm(2, 4)(torch.randn(2, 4, 3, 3))
    assert not norms.any
