"""DIST: correlations between classes and between samples instead of exact probabilities."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from nas_distill.distill.features import unit
from nas_distill.distill.losses.divergences import check_logits, log_probabilities
from nas_distill.distill.losses.kd import Temperature
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss
from nas_distill.utils.errors import TrainingError

# Floor of deviations relative to their mean; a lower one would give undecided students huge gradients.
_FLOOR = 1e-3


@loss("dist", weight=2.0, parts=("beta", "gamma"), tasks=("classification",))
def dist(
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    *,
    beta: Annotated[float, Field(ge=0)] = 1.0,
    gamma: Annotated[float, Field(ge=0)] = 1.0,
    temperature: Temperature = 1.0,
) -> Tensor:
    """DIST: Pearson correlation of probabilities over classes and over samples (Huang et al., 2022, arXiv:2205.10536).

    ``T^2 * (beta * inter + gamma * intra)``: inter is 1 - the correlation over classes, averaged over samples; intra is
    1 - the correlation over samples, averaged over classes. Equal logits give the minimum, 0, except that a row or
    column that varies by less than a thousandth of its mean has little or no correlation and adds up to 1.

    Batches of 64 or more are better for intra. With two classes, inter is 0 or 2 per sample and has no gradient.

    Raises:
        TrainingError: the classes of student and teacher differ, or are fewer than 2, or a batch has one sample while
            ``gamma`` is above 0.
    """
    check_logits("dist", student, teacher)
    if gamma and len(student.logits) < 2:
        raise TrainingError(
            "The loss 'dist' compares the samples of a batch with each other, but this batch has 1; set batch_size to "
            "2 or more (64 is better), or gamma to 0."
        )
    ours, theirs = (log_probabilities(side.logits, temperature).exp() for side in (student, teacher))
    value = ours.new_zeros(())
    if beta:
        value = value + beta * (1 - _correlation(ours, theirs, dim=1).mean())
    if gamma:
        value = value + gamma * (1 - _correlation(ours, theirs, dim=0).mean())
    return value * temperature**2


def _correlation(one: Tensor, other: Tensor, dim: int) -> Tensor:
    """Return Pearson's correlation along ``dim``; 0 with finite gradient if one of the two is constant."""
    return (_direction(one, dim) * _direction(other, dim)).sum(dim=dim)


def _direction(shares: Tensor, dim: int) -> Tensor:
    """Return the deviations from the mean along ``dim``, scaled to norm 1 unless all are below the floor."""
    mean = shares.mean(dim=dim, keepdim=True)
    # Relative to the mean, so that classes with low probability count like others.
    return unit((shares - mean) / mean.detach().clamp_min(1e-30), dim, floor=_FLOOR)
