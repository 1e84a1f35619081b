import pytest
import torch
from torch import nn

from nas_distill.models.layers import SqueezeExcite
from nas_distill.models.mbconv import InvertedResidual, build

STAGES = [{"depth": 2, "width": 8, "kernel": 3, "expansion": 1, "se": False}, {"depth": 1, "width": 16, "kernel": 5}]


def sizes(model, shape):
    """Height and width after each block."""
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[2:])))
    model.eval()(torch.zeros(2, *shape))
    return seen


def test_the_network_has_the_layers_of_its_architecture():
    model = build(stem=8, stages=STAGES, head=64, input_shape=(3, 32, 32), num_classes=5)
    assert [(block.residual, len(block.body)) for block in model.blocks] == [(True, 5), (True, 5), (False, 8)]
    depthwise = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert [(layer.in_channels, layer.kernel_size, layer.stride) for layer in depthwise] == [
        (8, (3, 3), (1, 1)),
        (8, (3, 3), (1, 1)),
        (32, (5, 5), (2, 2)),
    ]
    assert model.head.linear.in_features == 64
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    ("stem_stride", "shape", "expected"),
    [
        (1, (1, 28, 28), [(28, 28), (14, 14), (7, 7), (4, 4)]),
        (2, (1, 28, 28), [(14, 14), (7, 7), (4, 4), (2, 2)]),
        (2, (1, 8, 8), [(4, 4), (2, 2), (1, 1), (1, 1)]),
        (1, (1, 1, 1), [(1, 1)] * 4),
        (1, (3, 9, 2), [(9, 2), (5, 1), (5, 1), (5, 1)]),
    ],
)
def test_later_stages_halve_maps_larger_than_one_pixel(stem_stride, shape, expected):
    stages = [{"depth": 1, "width": 8}] * 4
    assert sizes(build(stem=8, stem_stride=stem_stride, stages=stages, input_shape=shape), shape) == expected


def test_only_the_first_block_of_a_stage_halves():
    model = build(stem=8, stages=[{"depth": 2, "width": 8}, {"depth": 3, "width": 16}], input_shape=(1, 28, 28))
    assert sizes(model, (1, 28, 28)) == [(28, 28), (28, 28), (14, 14), (14, 14), (14, 14)]


def test_a_stage_of_depth_zero_is_left_out():
    stages = [{"depth": 1, "width": 8}, {"depth": 0}, {"depth": 1, "width": 16}]
    assert sizes(build(stem=8, stages=stages, input_shape=(1, 28, 28)), (1, 28, 28)) == [(28, 28), (14, 14)]
    assert build(stem=8, stages=[{"depth": 0}], num_classes=4)(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        ({"depth": 1, "width": 8, "kernal": 3}, "kernal"),
        ({"width": 8}, "depth"),
        ({"depth": 2}, "depth 2 needs a width"),
        ({"depth": 1, "width": 8, "kernel": 4}, "kernels must be odd"),
    ],
)
def test_an_invalid_stage_is_refused(stage, error):
    with pytest.raises((TypeError, ValueError), match=error):
        build(stem=8, stages=[stage])


def test_a_residual_block_adds_its_input():
    block = InvertedResidual(8, 8, kernel=3, stride=1, expansion=2, se=True).eval()
    x = torch.randn(2, 8, 5, 5)
    assert torch.allclose(block(x) - block.body(x), x, atol=1e-6)
    assert not InvertedResidual(8, 16, kernel=3, stride=1, expansion=2, se=False).residual
    assert not InvertedResidual(8, 8, kernel=3, stride=2, expansion=2, se=False).residual


def test_squeeze_excitation_is_optional():
    for asked in (False, True):
        model = build(stem=8, stages=[{"depth": 2, "width": 8, "se": asked}])
        assert sum(isinstance(layer, SqueezeExcite) for layer in model.modules()) == (2 if asked else 0)
