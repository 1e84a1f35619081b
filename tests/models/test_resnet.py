import pytest
import torch
from torch import nn

from nas_distill.models.resnet import build


def convolutions(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def test_a_basic_network_has_the_layers_of_its_architecture():
    stages = [{"depth": 2, "width": 16}, {"depth": 1, "width": 32, "block": "basic"}]
    model = build(stem=16, stages=stages, input_shape=(3, 32, 32), num_classes=7)
    layers = [
        (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in convolutions(model)
    ]
    assert layers == [
        (3, 16, 3, 1),
        *[(16, 16, 3, 1)] * 4,
        (16, 32, 3, 2),
        (32, 32, 3, 1),
        (16, 32, 1, 1),
    ]
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(("width", "middle"), [(8, 8), (32, 8), (48, 16), (64, 16), (96, 24)])
def test_a_bottleneck_is_a_quarter_as_wide_in_multiples_of_eight(width, middle):
    model = build(stem=8, stages=[{"depth": 1, "width": width, "block": "bottleneck"}])
    assert [layer.out_channels for layer in convolutions(model)[1:4]] == [middle, middle, width]


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_1x1_convolutions_have_no_stride(block):
    stages = [{"depth": 2, "width": width, "block": block} for width in (8, 16, 32)]
    strided = [layer for layer in convolutions(build(stem=8, stages=stages)) if layer.stride != (1, 1)]
    assert len(strided) == 2
    assert all(layer.kernel_size == (3, 3) for layer in strided)


def test_a_stage_of_depth_zero_is_left_out():
    stages = [{"depth": 1, "width": 8}, {"depth": 0}]
    assert len(build(stem=8, stages=stages).blocks) == 1


def test_an_unknown_block_is_named():
    with pytest.raises(ValueError, match="unknown block 'basik'; known: basic, bottleneck"):
        build(stem=8, stages=[{"depth": 1, "width": 8, "block": "basik"}])
