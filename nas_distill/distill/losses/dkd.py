"""Decoupled knowledge distillation (DKD): separate terms for the target class and the other classes."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nas_distill.distill.losses.divergences import check_logits, tempered
from nas_distill.distill.losses.kd import Temperature
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss


@loss("dkd", parts=("alpha", "beta"), tasks=("classification",))
def dkd(
    student: Outputs,
    teacher: Outputs,
    batch: Batch,
    *,
    alpha: Annotated[float, Field(ge=0)] = 1.0,
    beta: Annotated[float, Field(ge=0)] = 8.0,
    temperature: Temperature = 4.0,
) -> Tensor:
    """Decoupled KD: the target class against all others, and the others among themselves (arXiv:2203.08679).

    ``T^2 * (alpha * TCKD + beta * NCKD)`` (Zhao et al., 2022), each summed over classes and averaged over the batch:
    TCKD is the divergence of [p_y, 1 - p_y], NCKD that of the classes without the target y. Equal logits up to a
    constant give the minimum, 0. With two classes NCKD is 0, because there is only one other class.

    The paper ramps the term up over the first 20 of 240 epochs, beside cross-entropy of weight 1: set ``warmup`` of the
    term to 0.08.

    Raises:
        TrainingError: the classes of student and teacher differ, or are fewer than 2.
    """
    check_logits("dkd", student, teacher)
    log_student, rest_student = _target_and_rest(tempered(student.logits, temperature), batch.labels)
    log_teacher, rest_teacher = _target_and_rest(tempered(teacher.logits, temperature), batch.labels)
    target = functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    others = functional.kl_div(rest_student, rest_teacher, reduction="batchmean", log_target=True)
    return (alpha * target + beta * others) * temperature**2


def _target_and_rest(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logs of [p_y, 1 - p_y], (B, 2), and of the probabilities among other classes, (B, classes - 1).

    Logs are computed from logits, because the log of 1 - p_y must stay finite when p_y rounds to 1.
    """
    is_target = functional.one_hot(labels, z.shape[1]).bool()
    others = z[~is_target].view(len(z), -1)
    pair = torch.stack((z[is_target], torch.logsumexp(others, dim=1)), dim=1)
    return functional.log_softmax(pair, dim=1), functional.log_softmax(others, dim=1)
