"""Losses on labels, and on outputs that are independent numbers: multi-label and regression."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nas_distill.distill.features import exact, unit
from nas_distill.distill.losses.divergences import check_logits, tempered
from nas_distill.distill.losses.kd import Temperature
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss


@loss("cross_entropy", taught=False, tasks=("classification",))
def cross_entropy(
    student: Outputs,
    teacher: Outputs | None,
    batch: Batch,
    *,
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> Tensor:
    """Cross-entropy against the labels, averaged over the batch."""
    return functional.cross_entropy(student.logits, batch.labels, label_smoothing=label_smoothing)


@loss("bce", taught=False, tasks=("multilabel",))
def bce(student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
    """Binary cross-entropy against the labels, summed over labels and averaged over the batch.

    The sum, as in ``bce_kd``, so that the two weigh alike; what a mean over labels would be is this over their number.
    """
    logits = exact(student.logits)
    total = functional.binary_cross_entropy_with_logits(logits, batch.labels.to(logits.dtype), reduction="sum")
    return total / len(logits)


@loss("bce_kd", weight=10.0, tasks=("classification", "multilabel"))
def bce_kd(student: Outputs, teacher: Outputs, batch: Batch, *, temperature: Temperature = 1.0) -> Tensor:
    """T^2 times the divergence of each label's sigmoid at temperature T, for multi-label tasks (arXiv:2308.06453).

    The one-versus-all distillation of Yang et al., 2023, summed over labels and averaged over the batch. It is binary
    cross-entropy against the teacher's sigmoids less the teacher's entropy, so its gradient is that of the
    cross-entropy and equal logits give the minimum, 0. The labels themselves are not read.

    Raises:
        TrainingError: the labels of student and teacher differ in number.
    """
    check_logits("bce_kd", student, teacher, classes=1)
    ours, theirs = tempered(student.logits, temperature), tempered(teacher.logits, temperature)
    yes = theirs.sigmoid() * (functional.logsigmoid(theirs) - functional.logsigmoid(ours))
    no = (-theirs).sigmoid() * (functional.logsigmoid(-theirs) - functional.logsigmoid(-ours))
    return (yes + no).sum(dim=1).mean() * temperature**2


@loss("squared_error", taught=False, tasks=("regression",))
def squared_error(student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
    """Mean squared difference from the targets, over targets and batch; ``mse`` is that from the teacher's outputs."""
    outputs = exact(student.logits)
    return functional.mse_loss(outputs, batch.labels.to(outputs.dtype))


@loss("mse")
def mse(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Mean squared difference of logits, over classes and batch (Kim et al., 2021, arXiv:2105.08919).

    It learns the size of the teacher's logits too, and fits outputs that are no classes. Equal logits give the
    minimum, 0.

    Raises:
        TrainingError: the outputs of student and teacher differ in shape.
    """
    check_logits("mse", student, teacher, classes=1)
    return functional.mse_loss(exact(student.logits), exact(teacher.logits))


@loss("cosine_logits")
def cosine_logits(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """One minus the cosine between the output vectors, averaged over the batch: for outputs that are embeddings.

    Only directions are learnt: outputs that are the teacher's up to a positive factor give the minimum, 0; opposite
    ones 2. An output of zeros has no direction and counts 1, and so do, in part, outputs that are all below 1e-4.

    Raises:
        TrainingError: the outputs of student and teacher differ in shape, or have fewer than 2 numbers.
    """
    check_logits("cosine_logits", student, teacher)
    return one_minus_cosine(student.logits, teacher.logits).mean()


def one_minus_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return one minus the cosine of vectors along the last dimension, (...) of (..., D); half precision in float32."""
    ours, theirs = (unit(exact(x), dim=-1, floor=1e-4) for x in (student, teacher))
    return 1 - (ours * theirs).sum(dim=-1)
