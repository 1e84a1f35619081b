"""Losses on logits. Lower is better; each is summed over classes and averaged over the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nas_distill.config import LossConfig


def knowledge_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 * KL(softmax(teacher / T) || softmax(student / T))`` (Hinton et al., 2015, arXiv:1503.02531).

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
    divergence = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def total_loss(student: Tensor, teacher: Tensor | None, labels: Tensor, loss: LossConfig) -> Tensor:
    """Return the weighted sum that a training minimises; without a teacher, cross-entropy with weight 1.

    Args:
        student: (B, classes) logits.
        teacher: (B, classes) logits, or None.
        labels: (B,) int64.
        loss: weights and temperature.
    """
    if teacher is None:
        return functional.cross_entropy(student, labels, label_smoothing=loss.label_smoothing)
    total = student.new_zeros(())
    if loss.soft:
        total = total + loss.soft * knowledge_distillation(student, teacher, loss.temperature)
    if loss.hard:
        cross_entropy = functional.cross_entropy(student, labels, label_smoothing=loss.label_smoothing)
        total = total + loss.hard * cross_entropy
    return total
