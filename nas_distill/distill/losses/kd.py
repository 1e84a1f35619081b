"""Hinton's knowledge distillation, plain and on standardised logits."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss

Temperature = Annotated[float, Field(gt=0)]


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, a scalar averaged over the batch.

    The factor T^2 keeps the gradient's size as T changes. Equal logits (up to a constant) give the minimum, 0. Half
    precision is computed in float32, since T^2 times a large divergence does not fit in it.

    Args:
        student: (B, classes) logits.
        teacher: (B, classes) logits.
        temperature: T, above 0.
    """
    dtype = torch.promote_types(student.dtype, torch.float32)
    log_student = functional.log_softmax(student.to(dtype) / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher.to(dtype) / temperature, dim=1)
    return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


@loss("kd", weight=0.9)
def kd(student: Outputs, teacher: Outputs, batch: Batch, *, temperature: Temperature = 4.0) -> Tensor:
    """Knowledge distillation: T^2 times the divergence of softened classes (Hinton et al., 2015, arXiv:1503.02531)."""
    return divergence(student.logits, teacher.logits, temperature)


@loss("lskd", weight=9.0)
def lskd(student: Outputs, teacher: Outputs, batch: Batch, *, temperature: Temperature = 2.0) -> Tensor:
    """KD on logits that are standardised sample by sample (LSKD; Sun et al., 2024, arXiv:2403.01427).

    Only the teacher's relations between classes are learnt, not the size of its logits. Student logits that are
    the teacher's up to a positive factor and a constant give the minimum, 0.
    """
    return divergence(standardise(student.logits), standardise(teacher.logits), temperature)


def standardise(logits: Tensor) -> Tensor:
    """Return logits (B, classes) with mean 0 and unbiased standard deviation 1 in each sample."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    centred = logits - logits.mean(dim=1, keepdim=True)
    # Not std(): its gradient is NaN where all classes of a sample are equal, as in a head that starts at zero.
    variance = centred.square().sum(dim=1, keepdim=True) / max(1, logits.shape[1] - 1)
    return centred / (variance + 1e-14).sqrt().clamp_min(1e-7)
