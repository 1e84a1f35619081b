"""Variational information distillation (VID)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.distill.features import exact, pooled_to, smaller
from nas_distill.distill.losses.checks import check_kinds, check_tokens
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss

Variance = Annotated[float, Field(gt=1e-5)]
_LEAST = 1e-5


class Gaussian(nn.Module):
    """Gaussian prediction of a teacher's feature from a student's: a mean and a variance per channel of the teacher.

    The mean is computed at each position (or token) by three 1x1 convolutions with biases (RepDistiller's have none)
    and ReLU between them. The variance is one number per channel, softplus(rho) + 1e-5.
    """

    def __init__(self, inputs: int, outputs: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv1d(inputs, outputs, 1),
            nn.ReLU(),
            nn.Conv1d(outputs, outputs, 1),
            nn.ReLU(),
            nn.Conv1d(outputs, outputs, 1),
        )
        # The inverse of softplus(rho) + 1e-5 = variance, in a form that does not overflow.
        above = variance - _LEAST
        self.rho = nn.Parameter(torch.full((outputs,), above + math.log(-math.expm1(-above))))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean negative log-likelihood of the teacher's feature, up to a constant, a scalar.

        Args:
            student: (B, C, positions).
            teacher: (B, D, positions).
        """
        variance = (functional.softplus(self.rho) + _LEAST)[:, None]
        mean = self.mean(student.to(self.rho.dtype))
        result: Tensor = 0.5 * ((teacher - mean).square() / variance + variance.log()).mean()
        return result


@loss("vid", layers="stages")
class VariationalInformation(Loss):
    """Variational information: likelihood of the teacher's features given the student's (arXiv:1904.05835).

    Half of (f_t - mu(f_s))^2 / sigma^2 + log sigma^2, averaged over all elements and summed over layers (Ahn et al.,
    2019); mu and sigma are learned. It has no fixed minimum: sigma^2 may fall to 1e-5, and the loss below 0. Of two
    resolutions, the larger map is pooled to the smaller.

    Args:
        shapes: shapes of the layers: maps, tokens (equally many on both sides) or vectors.
        variance: initial sigma^2.

    Raises:
        TrainingError: a pair of layers of different kinds, or of different numbers of tokens.
    """

    def __init__(self, shapes: Shapes, *, variance: Variance = 5.0) -> None:
        super().__init__(shapes)
        check_kinds("vid", shapes, [3, 2, 1], "name another layer")
        check_tokens("vid", shapes, "take 'sp' or 'pkt', which compare samples")
        self.gaussians = nn.ModuleList(
            Gaussian(_width(student), _width(teacher), variance) for student, teacher in shapes.features
        )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers."""
        found = []
        for gaussian, ours, theirs in zip(self.gaussians, student.features, teacher.features, strict=True):
            if ours.dim() == 4:
                size = smaller(ours.shape, theirs.shape)
                ours, theirs = pooled_to(exact(ours), size), pooled_to(exact(theirs), size)
            found.append(gaussian(_positions_last(exact(ours)), _positions_last(exact(theirs))))
        return torch.stack(found).sum()


def _width(shape: tuple[int, ...]) -> int:
    """Return the channels of a map, or the width of tokens or a vector."""
    return shape[0] if len(shape) == 3 else shape[-1]


def _positions_last(x: Tensor) -> Tensor:
    """Return a map (B, C, H, W), tokens (B, N, D) or a vector (B, D) as (B, channels, positions)."""
    if x.dim() == 4:
        return x.flatten(2)
    return x.transpose(1, 2) if x.dim() == 3 else x[:, :, None]
