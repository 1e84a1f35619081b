"""Regression metrics on outputs (N, K), computed in float64 on the CPU, independent of the order of samples."""

from __future__ import annotations

from torch import Tensor

from nas_distill.evaluate.classification import checked_logits, shape_text
from nas_distill.utils.errors import DataError


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Return the coefficient of determination, averaged over targets, at most 1; higher is better.

    It is 1 minus the squared error divided by the variance of the targets on these samples: 0 for a constant prediction
    of the mean, below 0 for a worse one. Targets that are the same for all samples are left out.

    Raises:
        DataError: all targets are the same for all samples.
    """
    outputs, targets = _checked(outputs, targets)
    total = (targets - targets.mean(dim=0)).square().sum(dim=0)
    varied = (targets != targets[0]).any(dim=0)
    if not bool(varied.any()):
        raise DataError("All samples have the same targets, so quality is undefined.")
    error = (outputs - targets).square().sum(dim=0)
    return float((1 - error[varied] / total[varied]).mean())


def rmse(outputs: Tensor, targets: Tensor) -> float:
    """Return the root of the mean squared error over samples and targets, in units of the targets; lower is better."""
    outputs, targets = _checked(outputs, targets)
    return float((outputs - targets).square().mean().sqrt())


def mae(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean absolute error over samples and targets, in units of the targets; lower is better."""
    outputs, targets = _checked(outputs, targets)
    return float((outputs - targets).abs().mean())


def _checked(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    outputs = checked_logits(outputs)
    if targets.shape != outputs.shape:
        raise DataError(
            f"Outputs of shape {shape_text(outputs)} need as many targets, but targets have {shape_text(targets)}."
        )
    return outputs, checked_logits(targets)
