"""Logit distillation by softened probabilities (Hinton et al., 2015), plain and on standardised logits."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss

Temperature = Annotated[float, Field(gt=0)]


Adaptive = Literal["none", "similarity", "confidence"]


def divergence(student: Tensor, teacher: Tensor, temperature: float | Tensor) -> Tensor:
    """Return ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, a scalar averaged over the batch.

    The factor T^2 keeps the gradient's size as T changes. Equal logits (up to a constant) give the minimum, 0. Half
    precision is computed in float32, since T^2 times a large divergence does not fit in it.

    Args:
        student: (B, classes) logits.
        teacher: (B, classes) logits.
        temperature: T, above 0; a number, or (B, 1) with one value per sample.
    """
    dtype = torch.promote_types(student.dtype, torch.float32)
    log_student = functional.log_softmax(student.to(dtype) / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher.to(dtype) / temperature, dim=1)
    if not isinstance(temperature, Tensor):
        return functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2
    each = functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1, keepdim=True)
    return (each * temperature.square()).mean()


@loss("kd", weight=0.9, tasks=("classification",))
def kd(
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    *,
    temperature: Temperature = 4.0,
    correct: bool = False,
    adaptive: Adaptive = "none",
    spread: Annotated[float, Field(ge=0)] = 1.0,
) -> Tensor:
    """Knowledge distillation: T^2 times the divergence of softened classes (Hinton et al., 2015, arXiv:1503.02531).

    ``correct`` swaps the teacher's highest logit with that of the label if the teacher is wrong, which keeps the order
    of the other classes (probability shift; Wen et al., 2019, arXiv:1911.07471). ``adaptive`` uses one temperature per
    sample, as in the same paper: ``T + spread * (mean(w) - w)``, so that samples with a high w get sharper targets.
    With ``similarity``, w is 1 - cos(student's logits, teacher's logits); with ``confidence``, 1 / the student's
    highest probability. A sample's T is at least a fourth of ``temperature``.
    """
    answers = corrected(teacher.logits, batch.labels) if correct else teacher.logits
    if adaptive == "none":
        return divergence(student.logits, answers, temperature)
    with torch.no_grad():
        if adaptive == "similarity":
            hard = 1 - functional.cosine_similarity(student.logits.float(), answers.float(), dim=1)
        else:
            hard = 1 / student.logits.float().softmax(dim=1).amax(dim=1)
        own = (temperature + spread * (hard.mean() - hard)).clamp_min(temperature / 4)
    return divergence(student.logits, answers, own[:, None].to(student.logits.dtype))


def corrected(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits (B, classes) with the label's logit highest: if another was, the two are swapped."""
    highest = logits.argmax(dim=1, keepdim=True)
    right = labels[:, None]
    top, own = logits.gather(1, highest), logits.gather(1, right)
    return logits.scatter(1, highest, own).scatter(1, right, top)


@loss("lskd", weight=9.0, tasks=("classification",))
def lskd(student: Outputs, teacher: Outputs, batch: Batch, *, temperature: Temperature = 2.0) -> Tensor:
    """KD on logits that are standardised per sample (LSKD; Sun et al., 2024, arXiv:2403.01427).

    The student learns the teacher's relations between classes, not the scale of its logits. Student logits equal to the
    teacher's up to a positive factor and a constant give the minimum, 0.
    """
    return divergence(standardise(student.logits), standardise(teacher.logits), temperature)


def standardise(logits: Tensor) -> Tensor:
    """Return logits (B, classes) with mean 0 and unbiased standard deviation 1 in each sample."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    centred = logits - logits.mean(dim=1, keepdim=True)
    # Not std(): its gradient is NaN if all logits of a sample are equal, as for a head initialised with zeros.
    variance = centred.square().sum(dim=1, keepdim=True) / max(1, logits.shape[1] - 1)
    return centred / (variance + 1e-14).sqrt().clamp_min(1e-7)
