"""Masked reconstruction: an auxiliary task that restores hidden parts of the sample."""

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


Share = Annotated[float, Field(gt=0, lt=1)]
Pixels = Annotated[int, Field(gt=0)]


@loss("masked_reconstruction", layers="last", own=True, taught=False)
class MaskedReconstruction(Loss):
    """Reconstruction of hidden patches by a linear head (SimMIM; Xie et al., 2022, arXiv:2111.09886).

    The student sees the batch once more, with patches of each sample hidden: a learned value, one a channel, stands
    there. A linear layer on each place of its last map or on each token makes the pixels of that place; the mean
    absolute error over hidden values alone is what is learnt, in units of the inputs. Which patches are hidden is drawn
    anew for each sample and step. Of sequences (N, D) whole steps are hidden, of samples (F,) single values; from a
    vector, named under ``layers``, the whole sample is made. Tokens are taken to lie row by row in a grid of the
    image's proportions, behind at most one class token. Head and learned values are no part of the student, and what
    its batch norms keep is of whole samples alone (see ``Outputs.again``).

    Args:
        shapes: of the student's layer, and of a sample.
        masked: share of the patches that is hidden, rounded to at least one and not all.
        patch: side of a patch in pixels; null takes a seventh of an image's shorter side, at least 2 (the paper's 32 of
            224 pixels).

    Raises:
        TrainingError: there is not one layer, the sample cannot be made from it, or it is a single patch.
    """

    def __init__(self, shapes: Shapes, *, masked: Share = 0.6, patch: Pixels | None = None) -> None:
        super().__init__(shapes)
        if len(shapes.features) != 1:
            raise TrainingError(
                f"The loss 'masked_reconstruction' reads one layer of the student, and got {len(shapes.features)}."
            )
        inputs = shapes.inputs
        if len(inputs) not in (1, 2, 3) or (patch is not None and len(inputs) != 3):
            raise TrainingError(
                "The loss 'masked_reconstruction' hides patches of images (C, H, W), steps of sequences (N, D) or "
                f"values (F,), the latter two without 'patch'; a sample has shape {inputs}."
            )
        self.side = max(2, min(inputs[1:]) // 7) if patch is None and len(inputs) == 3 else patch or 1
        self.grid = grid_of(inputs, self.side)
        places = math.prod(self.grid)
        if places < 2:
            raise TrainingError(
                f"The loss 'masked_reconstruction' hides patches, and a sample of shape {inputs} is one; give a "
                "smaller 'patch' or leave it out."
            )
        self.hidden = min(places - 1, max(1, round(masked * places)))
        # One a channel of an image, one a feature of a sequence's step, one a value.
        self.stand_in = nn.Parameter(torch.zeros(inputs[-1] if len(inputs) < 3 else inputs[0]))
        self.decoder = make_decoder(shapes.features[0][0], inputs)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """Return the mean absolute error over what is hidden."""
        assert batch.x is not None
        x = batch.x.to(self.stand_in.dtype)
        mask = self._mask(x)
        instead = self.stand_in[:, None, None] if x.dim() == 4 else self.stand_in
        seen = torch.where(mask, instead, x)
        made = self.decoder(exact(student.again(seen).features[0]).to(self.stand_in.dtype))
        result: Tensor = ((made - x).abs() * mask).sum() / mask.expand_as(x).sum()
        return result

    def _mask(self, x: Tensor) -> Tensor:
        """Return what is hidden, bool: (B, 1, H, W) of images, (B, N, 1) of sequences, (B, F) of values."""
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
    """Return how many patches a sample has: (rows, columns) of an image's, (N,) of steps or of values.

    At an image's lower and right edge patches may be cut.
    """
    return inputs[:1] if len(inputs) < 3 else (-(-inputs[1] // side), -(-inputs[2] // side))
