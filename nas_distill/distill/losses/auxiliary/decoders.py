"""Heads that make a sample from features of it, each place its own part."""

from __future__ import annotations

import math

from torch import Tensor, nn

from nas_distill.common.errors import TrainingError
from nas_distill.distill.losses.features.tensors import pooled_to


class MapDecoder(nn.Module):
    """Makes (B, C, H, W) of a map (B, D, h, w): each place makes its own pixels, by a 1x1 convolution.

    Where the sizes do not divide, what is made is averaged to the image's size.
    """

    def __init__(self, width: int, size: tuple[int, int], inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.channels, self.size = inputs[0], (inputs[1], inputs[2])
        self.steps = -(-inputs[1] // size[0]), -(-inputs[2] // size[1])
        self.make = nn.Conv2d(width, self.channels * math.prod(self.steps), 1)

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        made = self.make(feature).unflatten(1, (self.channels, *self.steps))
        # (B, C, rows, columns, h, w): pixels within a place, then places.
        laid = made.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        return pooled_to(laid, self.size)


class TokenDecoder(nn.Module):
    """Makes an image of tokens (B, N, D) that lie row by row in a grid ``size``; one before them is dropped."""

    def __init__(self, width: int, size: tuple[int, int], inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size
        self.map = MapDecoder(width, size, inputs)

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        kept = feature[:, feature.shape[1] - math.prod(self.size) :]
        made: Tensor = self.map(kept.transpose(1, 2).unflatten(2, self.size))
        return made


class StepDecoder(nn.Module):
    """Makes steps (B, N, D) of tokens (B, N or N + 1, width), each of its own."""

    def __init__(self, width: int, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.steps = inputs[0]
        self.make = nn.Linear(width, inputs[1])

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, N, D)."""
        made: Tensor = self.make(feature[:, feature.shape[1] - self.steps :])
        return made


class VectorDecoder(nn.Module):
    """Makes a whole sample of a vector (B, D)."""

    def __init__(self, width: int, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.inputs = inputs
        self.make = nn.Linear(width, math.prod(inputs))

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, *inputs)."""
        made: Tensor = self.make(feature).unflatten(1, self.inputs)
        return made


def make_decoder(feature: tuple[int, ...], inputs: tuple[int, ...]) -> nn.Module:
    """Return the head that makes samples of shape ``inputs`` from features of shape ``feature``.

    Raises:
        TrainingError: places of the feature are no places of a sample.
    """
    if len(feature) == 1:
        return VectorDecoder(feature[0], inputs)
    if len(feature) == 3 and len(inputs) == 3:
        return MapDecoder(feature[0], (feature[1], feature[2]), inputs)
    if len(feature) == 2 and len(inputs) == 2 and feature[0] - inputs[0] in (0, 1):
        return StepDecoder(feature[1], inputs)
    if len(feature) == 2 and len(inputs) == 3:
        for tokens in (feature[0], feature[0] - 1):
            rows = round(math.sqrt(tokens * inputs[1] / inputs[2]))
            if rows and tokens % rows == 0 and rows * inputs[2] == tokens // rows * inputs[1]:
                return TokenDecoder(feature[1], (rows, tokens // rows), inputs)
    raise TrainingError(
        f"The loss 'masked_reconstruction' cannot tell which part of a sample {inputs} a place of the student's layer "
        f"{feature} is of; name another layer, such as the vector before the classifier."
    )
