"""The labels alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional

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
