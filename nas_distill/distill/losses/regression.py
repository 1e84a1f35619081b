"""Outputs as numbers: their difference from the targets or from the teacher's, and their direction."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from nas_distill.distill.losses.features.tensors import exact, unit
from nas_distill.distill.losses.logits import check_logits
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss


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
