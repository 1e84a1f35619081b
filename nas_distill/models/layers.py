"""Small layers that the builders share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution with padding that keeps the size (over ``stride``), and its batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


def conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return ``conv_bn`` with a ReLU behind it."""
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride, groups), nn.ReLU(inplace=True))


class Classifier(nn.Module):
    """Global average pooling and a linear layer: (B, C, H, W) features to (B, classes) logits."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of a batch of feature maps."""
        return self.linear(features.mean(dim=(2, 3)))


def initialise(module: nn.Module, *, zero_last: tuple[nn.BatchNorm2d, ...] = ()) -> None:
    """Draw convolution weights by He et al. (2015, fan out), and start the named norms at zero.

    A residual block whose last norm starts at zero is the identity at first (Goyal et al., 2017), which steadies the
    first steps of short trainings.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
    with torch.no_grad():
        for norm in zero_last:
            norm.weight.zero_()
