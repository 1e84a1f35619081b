import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nas_distill.models.layers import Classifier, SqueezeExcite, conv_bn, initialise, round_channels


@given(st.floats(0, 4096))
def test_channels_are_rounded_to_the_nearest_multiple_of_eight(channels):
    rounded = round_channels(channels)
    assert rounded % 8 == 0
    assert rounded >= 8
    assert abs(rounded - channels) <= 4 or rounded == 8


@pytest.mark.parametrize(("channels", "rounded"), [(0, 8), (11.9, 8), (12, 16), (16, 16), (19, 16), (20, 24)])
def test_halves_are_rounded_up(channels, rounded):
    assert round_channels(channels) == rounded


@pytest.mark.parametrize(
    ("kernel", "stride", "size", "result"), [(1, 1, 7, 7), (3, 1, 7, 7), (5, 2, 7, 4), (5, 2, 1, 1)]
)
def test_padding_keeps_the_size_over_the_stride(kernel, stride, size, result):
    assert conv_bn(8, 16, kernel, stride).eval()(torch.zeros(2, 8, size, size)).shape == (2, 16, result, result)


def test_squeeze_excitation_scales_channels_by_gates_in_0_1():
    torch.manual_seed(0)
    layer = SqueezeExcite(16)
    x = torch.rand(3, 16, 4, 5) + 1
    gates = (layer(x) / x).flatten(2)
    assert torch.allclose(gates, gates[:, :, :1].expand_as(gates), atol=1e-6)
    assert gates.min() >= 0
    assert gates.max() <= 1
    assert gates[:, :, 0].std() > 0


def test_the_classifier_averages_over_the_map():
    head = Classifier(8, 3)
    features = torch.randn(2, 8, 4, 4)
    assert torch.allclose(head(features), head.linear(features.mean((2, 3))))


def test_depthwise_weights_have_the_variance_of_one_channel():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(256, 256, 3, groups=256), nn.Conv2d(64, 256, 3))
    initialise(module)
    depthwise, full = (layer.weight.std().item() for layer in module)
    assert depthwise == pytest.approx((2 / 9) ** 0.5, rel=0.1)
    assert full == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.1)
