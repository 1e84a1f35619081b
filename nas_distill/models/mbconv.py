"""Networks of inverted residual blocks (MobileNetV2 style) for small images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nas_distill.models.layers import Classifier, SqueezeExcite, conv_bn, conv_bn_relu, initialise


class InvertedResidual(nn.Module):
    """Inverted residual: 1x1 convolution to ``expansion * inputs`` channels, depthwise ``kernel``, 1x1 to ``outputs``.

    ``expansion`` 1 omits the first convolution; ``se`` adds squeeze-excitation before the last one, which has no ReLU.
    The input is added if it has the shape of the output.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int, se: bool) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"the kernel is {kernel}; kernels must be odd")
        middle = inputs * expansion
        self.body = nn.Sequential(
            *(conv_bn_relu(inputs, middle, 1) if expansion != 1 else ()),
            *conv_bn_relu(middle, middle, kernel, stride, groups=middle),
            *((SqueezeExcite(middle),) if se else ()),
            *conv_bn(middle, outputs, 1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        result: Tensor = x + self.body(x) if self.residual else self.body(x)
        return result


class MBConvNet(nn.Module):
    """Stem, stages of inverted residuals, classifier; (B, C, H, W) images to (B, num_classes) logits."""

    def __init__(
        self,
        stem: int,
        stem_stride: int,
        stages: Sequence[Mapping[str, Any]],
        head: int,
        input_shape: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        channels, *size = input_shape
        smallest = -(-min(size) // stem_stride)
        self.stem = conv_bn_relu(channels, stem, 3, stem_stride)
        blocks: list[InvertedResidual] = []
        width = stem
        for stage in stages:
            # Maps of one pixel, in later stages of tiny images, are not halved.
            stride = 2 if blocks and smallest > 1 else 1
            added = _stage(width, stride, **stage)
            if added:
                blocks += added
                width = stage["width"]
                smallest = -(-smallest // stride)
        self.blocks = nn.Sequential(*blocks)
        self.features = conv_bn_relu(width, head, 1) if head else nn.Identity()
        self.head = Classifier(head or width, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch of images."""
        result: Tensor = self.head(self.features(self.blocks(self.stem(x))))
        return result


def build(
    *,
    stem: int,
    stages: Sequence[Mapping[str, Any]],
    stem_stride: int = 1,
    head: int = 0,
    input_shape: Sequence[int] = (3, 32, 32),
    num_classes: int = 10,
) -> MBConvNet:
    """Build a network of inverted residuals.

    Args:
        stem: channels of the first 3x3 convolution.
        stages: per stage ``depth`` (blocks; 0 omits the stage) and ``width`` (channels), optionally ``kernel`` (odd,
            default 3), ``expansion`` (4) and ``se`` (squeeze-excitation, false). Every stage but the first halves the
            resolution, unless it is one pixel.
        stem_stride: 1 keeps the image's resolution in the first stage, 2 halves it.
        head: channels of a 1x1 convolution before the classifier, 0 for none.
        input_shape: (channels, height, width).
        num_classes: number of logits.
    """
    return MBConvNet(stem, stem_stride, stages, head, input_shape, num_classes)


def _stage(
    inputs: int, stride: int, *, depth: int, width: int = 0, kernel: int = 3, expansion: int = 4, se: bool = False
) -> list[InvertedResidual]:
    if depth and not width:
        raise ValueError(f"a stage with depth {depth} needs a width")
    blocks = []
    for _ in range(depth):
        blocks.append(InvertedResidual(inputs, width, kernel=kernel, stride=stride, expansion=expansion, se=se))
        inputs, stride = width, 1
    return blocks
