"""Divergences between student and teacher distributions, and log-probabilities with temperature."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nas_distill.distill.features import exact
from nas_distill.distill.losses.kd import Temperature, divergence
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss
from nas_distill.utils.errors import TrainingError


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Return ``logits / temperature``, in float32 if in half precision, in which the losses would overflow."""
    return exact(logits) / temperature


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return the log of ``softmax(logits / temperature)`` over classes, (B, classes); finite for finite logits."""
    return functional.log_softmax(tempered(logits, temperature), dim=1)


def check_logits(name: str, student: Outputs, teacher: Outputs, *, classes: int = 2) -> None:
    """Refuse logits that the loss ``name`` cannot compare.

    Raises:
        TrainingError: the logits are not (B, classes) with equal shapes, or have fewer than ``classes`` classes.
    """
    ours, theirs = tuple(student.logits.shape), tuple(teacher.logits.shape)
    if ours != theirs or len(ours) != 2:
        raise TrainingError(
            f"The loss '{name}' compares logits (B, classes) one by one, but the student gives {ours} and the teacher "
            f"{theirs}; give both the same classes."
        )
    if ours[1] < classes:
        raise TrainingError(
            f"The loss '{name}' compares classes with each other and needs {classes} or more, but the logits are of "
            f"{ours[1]}; take 'bce_kd' or 'mse'."
        )


@loss("forward_kl", tasks=("classification",))
def forward_kl(student: Outputs, teacher: Outputs, batch: Batch, *, temperature: Temperature = 1.0) -> Tensor:
    """T^2 times KL(teacher || student): the student covers all classes that the teacher considers likely.

    It is ``kd`` with weight 1 and T = 1 (Hinton et al., 2015, arXiv:1503.02531). Equal logits give the minimum, 0.

    Raises:
        TrainingError: the classes of student and teacher differ, or are fewer than 2.
    """
    check_logits("forward_kl", student, teacher)
    return divergence(student.logits, teacher.logits, temperature)


@loss("reverse_kl", tasks=("classification",))
def reverse_kl(student: Outputs, teacher: Outputs, batch: Batch, *, temperature: Temperature = 1.0) -> Tensor:
    """T^2 times KL(student || teacher): the student avoids classes that the teacher considers unlikely.

    The divergence of MiniLLM (Gu et al., 2023, arXiv:2306.08543), applied to classes. Equal logits give the minimum, 0.

    Raises:
        TrainingError: the classes of student and teacher differ, or are fewer than 2.
    """
    check_logits("reverse_kl", student, teacher)
    return divergence(teacher.logits, student.logits, temperature)


@loss("jsd", tasks=("classification",))
def jsd(
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    *,
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5,
    temperature: Temperature = 1.0,
) -> Tensor:
    """Generalised Jensen-Shannon divergence between teacher and student (GKD; Agarwal et al., 2023, arXiv:2306.13649).

    ``T^2 * (beta * KL(p_t || M) + (1 - beta) * KL(p_s || M))`` with ``M = beta * p_t + (1 - beta) * p_s``, summed over
    classes, averaged over the batch. As ``beta`` approaches 0 or 1, it vanishes like ``beta * KL(p_t || p_s)`` or
    ``(1 - beta) * KL(p_s || p_t)``. At the ends it is defined as these divergences without the factor: ``beta`` 0 is
    the forward KL and 1 the reverse KL, so the value jumps there. Equal logits give the minimum, 0.

    Raises:
        TrainingError: the classes of student and teacher differ, or are fewer than 2.
    """
    check_logits("jsd", student, teacher)
    if beta in (0, 1):
        one, other = (student, teacher) if beta == 0 else (teacher, student)
        return divergence(one.logits, other.logits, temperature)
    log_student = log_probabilities(student.logits, temperature)
    log_teacher = log_probabilities(teacher.logits, temperature)
    log_mixture = torch.logaddexp(log_teacher + math.log(beta), log_student + math.log1p(-beta))
    from_teacher = functional.kl_div(log_mixture, log_teacher, reduction="batchmean", log_target=True)
    from_student = functional.kl_div(log_mixture, log_student, reduction="batchmean", log_target=True)
    return (beta * from_teacher + (1 - beta) * from_student) * temperature**2


@loss("soft_cross_entropy", tasks=("classification",))
def soft_cross_entropy(student: Outputs, teacher: Outputs, batch: Batch, *, temperature: Temperature = 1.0) -> Tensor:
    """T^2 times the cross-entropy against the teacher's softened classes (TinyBERT; arXiv:1909.10351).

    The prediction loss of Jiao et al., 2019: summed over classes, averaged over the batch. Its gradient is that of
    ``kd``; equal logits give the minimum, which is T^2 times the entropy of the teacher's classes.

    Raises:
        TrainingError: the classes of student and teacher differ, or are fewer than 2.
    """
    check_logits("soft_cross_entropy", student, teacher)
    log_student = log_probabilities(student.logits, temperature)
    shares = log_probabilities(teacher.logits, temperature).exp()
    return -(shares * log_student).sum(dim=1).mean() * temperature**2
