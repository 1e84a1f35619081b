"""Residual networks for small images (He et al., 2015, arXiv:1512.03385): basic and bottleneck blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nas_distill.models.layers import Classifier, conv_bn, conv_bn_relu, initialise, round_channels

_BOTTLENECK_EXPANSION = 4


class ResidualBlock(nn.Module):
    """A residual block: ``basic`` is two 3x3 convolutions, ``bottleneck`` 1x1, 3x3, 1x1 with a quarter of the width.

    The shortcut of a block that changes the shape pools before its 1x1 convolution, so that no 1x1 convolution has a
    stride, which would ignore inputs (He et al., 2018, arXiv:1812.01187, "ResNet-D").
    """

    def __init__(self, inputs: int, outputs: int, stride: int, kind: str) -> None:
        super().__init__()
        if kind == "basic":
            self.body = nn.Sequential(*conv_bn_relu(inputs, outputs, 3, stride), *conv_bn(outputs, outputs, 3))
        elif kind == "bottleneck":
            middle = round_channels(outputs / _BOTTLENECK_EXPANSION)
            self.body = nn.Sequential(
                *conv_bn_relu(inputs, middle, 1), *conv_bn_relu(middle, middle, 3, stride), *conv_bn(middle, outputs, 1)
            )
        else:
            raise ValueError(f"unknown block '{kind}'; known: basic, bottleneck")
        shortcut: list[nn.Module] = []
        if stride > 1:
            shortcut.append(nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False))
        if inputs != outputs:
            shortcut.extend(conv_bn(inputs, outputs, 1))
        self.shortcut = nn.Sequential(*shortcut)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        result: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return result


class ResNet(nn.Module):
    """Stem, stages of residual blocks, classifier; (B, C, H, W) images to (B, num_classes) logits."""

    def __init__(
        self,
        stem: int,
        stem_stride: int,
        stages: Sequence[Mapping[str, Any]],
        input_shape: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        channels = input_shape[0]
        self.stem = conv_bn_relu(channels, stem, 3, stem_stride)
        blocks: list[ResidualBlock] = []
        inputs = stem
        for index, stage in enumerate(stages):
            for position in range(stage["depth"]):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(ResidualBlock(inputs, stage["width"], stride, stage.get("block", "basic")))
                inputs = stage["width"]
        self.blocks = nn.Sequential(*blocks)
        self.head = Classifier(inputs, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        result: Tensor = self.head(self.blocks(self.stem(x)))
        return result


def build(
    *,
    stem: int,
    stages: Sequence[Mapping[str, Any]],
    stem_stride: int = 1,
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
) -> ResNet:
    """Build a ResNet.

    Args:
        stem: channels of the first 3x3 convolution.
        stages: per stage ``depth`` (blocks), ``width`` (channels), and ``block`` (``basic``, ``bottleneck``); every
            stage but the first halves the resolution.
        stem_stride: 1 keeps the image's resolution in the first stage, 2 halves it.
        input_shape: (channels, height, width).
        num_classes: number of logits.
    """
    return ResNet(stem, stem_stride, stages, input_shape, num_classes)
