"""All figures of one model on one split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Evaluation:
    """What a trained model is worth on one split of labelled data.

    Attributes:
        accuracy: share of right top-1 predictions, in [0, 1]; higher is better.
        nll: mean negative log-likelihood, nats per sample; lower is better.
        ece: expected calibration error of 15 bins, a share in [0, 1]; lower is better.
        agreement: share of samples where it predicts what the teacher predicts; None where no teacher was given.
        retained: its accuracy divided by the teacher's on the same samples (above 1: better than the teacher); None
            where no teacher was given, or where the teacher was never right.
        count: how many samples were judged.
    """

    accuracy: float
    nll: float
    ece: float
    agreement: float | None
    retained: float | None
    count: int


def evaluate_logits(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> Evaluation:
    """Compute every figure from logits ``[N, C]``, labels ``[N]`` and, if given, the teacher's logits ``[N, C]``.

    Raises:
        DataError: shapes do not fit, a label is out of range, a logit is not finite, or there is no sample.
    """
    # Imported here so that finished figures are read without torch.
    from nas_distill.evaluate import metrics

    accuracy = metrics.accuracy(logits, labels)
    alike = retained = None
    if teacher_logits is not None:
        alike = metrics.agreement(logits, teacher_logits)
        teacher_accuracy = metrics.accuracy(teacher_logits, labels)
        retained = accuracy / teacher_accuracy if teacher_accuracy > 0 else None
    return Evaluation(
        accuracy=accuracy,
        nll=metrics.nll(logits, labels),
        ece=metrics.ece(logits, labels),
        agreement=alike,
        retained=retained,
        count=len(labels),
    )
