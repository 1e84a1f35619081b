"""For samples that may have several labels: each label is a question of its own, to the truth and to the teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from nas_distill.distill.losses.features.tensors import exact
from nas_distill.distill.losses.kd import Temperature
from nas_distill.distill.losses.logits import check_logits, tempered
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss


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
