"""Shared layers of the built-in builders."""

from __future__ import annotations

from torch import Tensor, nn


def round_channels(channels: float) -> int:
    """Return the multiple of 8 nearest to ``channels`` (the upper one in a tie), at least 8.

    Other numbers waste vector lanes, and fewer than 8 channels have crashed native convolutions.
    """
    return max(8, int(channels + 4) // 8 * 8)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution, padded to keep the size (divided by ``stride``), and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


def conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return ``conv_bn`` followed by a ReLU."""
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride, groups), nn.ReLU(inplace=True))


class SqueezeExcite(nn.Module):
    """Squeeze-excitation: scales each channel by a gate in [0, 1] that depends on all channel means, (B, C, H, W).

    Hu et al., 2018 (arXiv:1709.01507), with a quarter of the channels in between and MobileNetV3's hard sigmoid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_channels(channels / 4)
        self.gate = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(inplace=True), nn.Linear(squeezed, channels), nn.Hardsigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled feature maps, of the same shape."""
        result: Tensor = x * self.gate(x.mean(dim=(2, 3)))[:, :, None, None]
        return result


class Classifier(nn.Module):
    """Global average pooling and a linear layer: (B, C, H, W) features to (B, classes) logits."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of a batch of feature maps."""
        result: Tensor = self.linear(features.mean(dim=(2, 3)))
        return result


def initialise(module: nn.Module) -> None:
    """Initialise convolutions by He et al. (2015, fan out); norms are the identity, linear layers as in torch.

    A depthwise convolution's fan out is that of one channel, which torch counts as its fan in.

    Residual branches are not initialised to zero: that helps long trainings of deep networks, but reduced the accuracy
    of short trainings, which score architectures, by 4 to 30 points.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            depthwise = layer.groups > 1
            nn.init.kaiming_normal_(layer.weight, mode="fan_in" if depthwise else "fan_out", nonlinearity="relu")
