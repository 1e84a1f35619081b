"""Losses on labels, and on independent outputs: multi-label, regression and embeddings."""

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

    It is a sum over labels, as ``bce_kd`` is, so that their weights are comparable; divide by the number of labels for
    the mean.
    """
    logits = exact(student.logits)
    total = functional.binary_cross_entropy_with_logits(logits, batch.labels.to(logits.dtype), reduction="sum")
    return total / len(logits)


@loss("bce_kd", weight=10.0, tasks=("classification", "multilabel"))
def bce_kd(student: Outputs, teacher: Outputs, batch: Batch, *, temperature: Temperature = 1.0) -> Tensor:
    """T^2 times the divergence of each label's sigmoid at temperature T, for multi-label tasks (arXiv:2308.06453).

    The one-versus-all distillation of Yang et al., 2023, summed over labels and averaged over the batch. It is binary
    cross-entropy against the teacher's sigmoids less the teacher's entropy, so its gradient is that of the
    cross-entropy, and equal logits give the minimum, 0. It does not use the labels.

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
    """Mean squared error over targets and batch; ``mse`` compares with the teacher's outputs instead."""
    outputs = exact(student.logits)
    return functional.mse_loss(outputs, batch.labels.to(outputs.dtype))


@loss("mse")
def mse(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Mean squared difference of logits, over classes and batch (Kim et al., 2021, arXiv:2105.08919).

    It also learns the scale of the teacher's logits, and is suitable for outputs that are not classes. Equal logits
    give the minimum, 0.

    Raises:
        TrainingError: the outputs of student and teacher differ in shape.
    """
    check_logits("mse", student, teacher, classes=1)
    return functional.mse_loss(exact(student.logits), exact(teacher.logits))


@loss("cosine_logits")
def cosine_logits(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """One minus the cosine between the output vectors, averaged over the batch: for outputs that are embeddings.

    Only directions are learned: outputs equal to the teacher's up to a positive factor give the minimum, 0; opposite
    ones give 2. A zero output has no direction and gives 1; outputs with all values below 1e-4 approach that.

    Raises:
        TrainingError: the outputs of student and teacher differ in shape, or have fewer than 2 numbers.
    """
    check_logits("cosine_logits", student, teacher)
    return one_minus_cosine(student.logits, teacher.logits).mean()


def one_minus_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return one minus the cosine (...) of vectors (..., D) along the last dimension; half precision in float32."""
    ours, theirs = (unit(exact(x), dim=-1, floor=1e-4) for x in (student, teacher))
    return 1 - (ours * theirs).sum(dim=-1)
