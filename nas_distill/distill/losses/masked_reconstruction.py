"""Masked reconstruction: an auxiliary task that reconstructs hidden parts of a sample."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from nas_distill.distill.features import exact, pooled_to
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.utils.errors import TrainingError


class MapDecoder(nn.Module):
    """Decoder of a map (B, D, h, w) to an image (B, C, H, W): a 1x1 convolution gives the pixels of each position.

    If the sizes are not multiples, the result is pooled to the size of the image.
    """

    def __init__(self, width: int, size: tuple[int, int], inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.channels, self.size = inputs[0], (inputs[1], inputs[2])
        self.steps = -(-inputs[1] // size[0]), -(-inputs[2] // size[1])
        self.make = nn.Conv2d(width, self.channels * math.prod(self.steps), 1)

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        pixels = self.make(feature).unflatten(1, (self.channels, *self.steps))
        # (B, C, rows, columns, h, w): pixels within a position, then positions.
        image = pixels.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        return pooled_to(image, self.size)


class TokenDecoder(nn.Module):
    """Decoder of tokens (B, N, D), row by row in a grid of ``size``, to an image; a class token is dropped."""

    def __init__(self, width: int, size: tuple[int, int], inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.size = size
        self.map = MapDecoder(width, size, inputs)

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, C, H, W)."""
        kept = feature[:, feature.shape[1] - math.prod(self.size) :]
        image: Tensor = self.map(kept.transpose(1, 2).unflatten(2, self.size))
        return image


class StepDecoder(nn.Module):
    """Decoder of tokens (B, N or N + 1, width) to the steps (B, N, D) of a sequence, one step per token."""

    def __init__(self, width: int, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.steps = inputs[0]
        self.make = nn.Linear(width, inputs[1])

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, N, D)."""
        steps: Tensor = self.make(feature[:, feature.shape[1] - self.steps :])
        return steps


class VectorDecoder(nn.Module):
    """Decoder of a vector (B, D) to a whole sample."""

    def __init__(self, width: int, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.inputs = inputs
        self.make = nn.Linear(width, math.prod(inputs))

    def forward(self, feature: Tensor) -> Tensor:
        """Return (B, *inputs)."""
        sample: Tensor = self.make(feature).unflatten(1, self.inputs)
        return sample


def make_decoder(feature: tuple[int, ...], inputs: tuple[int, ...]) -> nn.Module:
    """Return the head that decodes features of shape ``feature`` to samples of shape ``inputs``.

    Raises:
        TrainingError: positions of the feature do not correspond to parts of a sample.
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
        f"The loss 'masked_reconstruction' cannot map positions of the student's layer {feature} to parts of a sample "
        f"{inputs}; name another layer, such as the vector before the classifier."
    )


Share = Annotated[float, Field(gt=0, lt=1)]
Pixels = Annotated[int, Field(gt=0)]


@loss("masked_reconstruction", layers="last", own=True, taught=False)
class MaskedReconstruction(Loss):
    """Reconstruction of hidden patches by a linear head (SimMIM; Xie et al., 2022, arXiv:2111.09886).

    The batch passes the student a second time, with patches of each sample replaced by a learned value per channel. A
    linear layer on each position of the last map, or on each token, predicts the pixels of that position. The loss is
    the mean absolute error over hidden values, in units of the inputs. The hidden patches are drawn for each sample and
    step. In sequences (N, D) whole steps are hidden, in samples (F,) single values. A vector, if named under
    ``layers``, predicts the whole sample. Tokens are assumed to be row by row in a grid of the image's proportions,
    after at most one class token. The head and the learned values are not part of the student, and its batch norm
    statistics are of unmasked samples only (see ``Outputs.again``).

    Args:
        shapes: shapes of the student's layer and of a sample.
        masked: share of hidden patches, rounded to at least one and not all.
        patch: side of a patch in pixels; null: a seventh of the shorter side of an image, at least 2 (as the paper's 32
            of 224 pixels).

    Raises:
        TrainingError: the number of layers is not one, the layer cannot be decoded to a sample, or a sample is a single
            patch.
    """

    def __init__(self, shapes: Shapes, *, masked: Share = 0.6, patch: Pixels | None = None) -> None:
        super().__init__(shapes)
        if len(shapes.features) != 1:
            raise TrainingError(
                f"The loss 'masked_reconstruction' reads one layer of the student, but got {len(shapes.features)}."
            )
        inputs = shapes.inputs
        if len(inputs) not in (1, 2, 3) or (patch is not None and len(inputs) != 3):
            raise TrainingError(
                "The loss 'masked_reconstruction' hides patches of images (C, H, W), steps of sequences (N, D) or "
                f"values (F,), the latter two without 'patch'; a sample has shape {inputs}."
            )
        self.side = max(2, min(inputs[1:]) // 7) if patch is None and len(inputs) == 3 else patch or 1
        self.grid = grid_of(inputs, self.side)
        patches = math.prod(self.grid)
        if patches < 2:
            raise TrainingError(
                f"The loss 'masked_reconstruction' hides patches, and a sample of shape {inputs} is a single one; set "
                "a smaller 'patch' or remove it."
            )
        self.hidden = min(patches - 1, max(1, round(masked * patches)))
        # One value per channel of an image, per feature of a sequence, or per value of a vector.
        self.stand_in = nn.Parameter(torch.zeros(inputs[-1] if len(inputs) < 3 else inputs[0]))
        self.decoder = make_decoder(shapes.features[0][0], inputs)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """Return the mean absolute error over hidden values."""
        assert batch.x is not None
        x = batch.x.to(self.stand_in.dtype)
        mask = self._mask(x)
        instead = self.stand_in[:, None, None] if x.dim() == 4 else self.stand_in
        visible = torch.where(mask, instead, x)
        decoded = self.decoder(exact(student.again(visible).features[0]).to(self.stand_in.dtype))
        result: Tensor = ((decoded - x).abs() * mask).sum() / mask.expand_as(x).sum()
        return result

    def _mask(self, x: Tensor) -> Tensor:
        """Return the bool mask of hidden values: (B, 1, H, W) for images, (B, N, 1) for sequences, else (B, F)."""
        order = torch.rand(len(x), math.prod(self.grid), device=x.device).argsort(dim=1).argsort(dim=1)
        hidden = order < self.hidden
        if x.dim() == 2:
            return hidden
        if x.dim() == 3:
            return hidden[:, :, None]
        grid = hidden.view(len(x), 1, *self.grid)
        grown = grid.repeat_interleave(self.side, 2).repeat_interleave(self.side, 3)
        return grown[:, :, : x.shape[2], : x.shape[3]]


def grid_of(inputs: tuple[int, ...], side: int) -> tuple[int, ...]:
    """Return the grid of patches of a sample: (rows, columns) for an image, (N,) for steps or values.

    Patches at the lower and right edges of an image may be smaller.
    """
    return inputs[:1] if len(inputs) < 3 else (-(-inputs[1] // side), -(-inputs[2] // side))
