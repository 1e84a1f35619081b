"""All figures of one model on one split: one record a task, with the same names for what all have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_distill.evaluate.intervals import bootstrap_halfwidth, halfwidth

if TYPE_CHECKING:
    from torch import Tensor

    from nas_distill.common.task import Task


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

    @property
    def quality(self) -> float:
        """The figure that models are compared by; higher is better."""
        return self.accuracy

    @property
    def error(self) -> float:
        """Half the width of the 95 % interval of quality."""
        return halfwidth(self.accuracy, self.count)


@dataclass(frozen=True)
class MultilabelEvaluation:
    """What a trained model is worth on one split of samples with several labels each.

    Attributes:
        mean_average_precision: macro, over labels that any sample has, in [0, 1]; higher is better.
        f1: macro, at a probability of a half, in [0, 1]; higher is better.
        nll: binary cross-entropy in nats a sample, summed over labels; lower is better.
        ece: expected calibration error of labels' probabilities in 15 bins, a share in [0, 1]; lower is better.
        agreement: share of labels, over all samples, of which it says what the teacher says; None without a teacher.
        retained: its mean average precision divided by the teacher's; None without a teacher.
        error: half the width of the 95 % interval of mean average precision (bootstrap).
        count: how many samples were judged.
    """

    mean_average_precision: float
    f1: float
    nll: float
    ece: float
    agreement: float | None
    retained: float | None
    error: float
    count: int

    @property
    def quality(self) -> float:
        """The figure that models are compared by; higher is better."""
        return self.mean_average_precision


@dataclass(frozen=True)
class RegressionEvaluation:
    """What a trained model is worth on one split of samples with targets.

    Attributes:
        r2: coefficient of determination, the mean over targets, at most 1; higher is better.
        rmse: root of the mean squared error, in units of the targets; lower is better.
        mae: mean absolute error, in units of the targets; lower is better.
        agreement: R^2 of its outputs with the teacher's in place of the targets; None without a teacher, or where the
            teacher says the same of all samples.
        retained: its R^2 divided by the teacher's; None without a teacher, or where that is not above 0.
        error: half the width of the 95 % interval of R^2 (bootstrap).
        count: how many samples were judged.
    """

    r2: float
    rmse: float
    mae: float
    agreement: float | None
    retained: float | None
    error: float
    count: int

    @property
    def quality(self) -> float:
        """The figure that models are compared by; higher is better."""
        return self.r2


AnyEvaluation = Evaluation | MultilabelEvaluation | RegressionEvaluation


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


def evaluate_outputs(outputs: Tensor, labels: Tensor, teacher: Tensor | None = None, *, task: Task) -> AnyEvaluation:
    """Compute every figure that a task has.

    Args:
        outputs: (N, K) logits or predicted targets.
        labels: (N,) int64 classes, or (N, K) labels or targets.
        teacher: (N, K) of the teacher on the same samples, if it is to be compared with.
        task: what they are of.

    Raises:
        DataError: shapes do not fit, a value is not finite, or quality cannot be told from these labels.
    """
    if task == "classification":
        return evaluate_logits(outputs, labels, teacher)
    if task == "multilabel":
        return _evaluate_labels(outputs, labels, teacher)
    return _evaluate_targets(outputs, labels, teacher)


def read_evaluation(values: Mapping[str, Any]) -> AnyEvaluation:
    """Return the record whose fields ``values`` are, as ``dataclasses.asdict`` writes it."""
    if "r2" in values:
        return RegressionEvaluation(**values)
    return MultilabelEvaluation(**values) if "mean_average_precision" in values else Evaluation(**values)


def _evaluate_labels(logits: Tensor, labels: Tensor, teacher: Tensor | None) -> MultilabelEvaluation:
    from nas_distill.evaluate import multilabel

    found = multilabel.mean_average_precision(logits, labels)
    return MultilabelEvaluation(
        mean_average_precision=found,
        f1=multilabel.macro_f1(logits, labels),
        nll=multilabel.label_nll(logits, labels),
        ece=multilabel.label_ece(logits, labels),
        agreement=None if teacher is None else multilabel.label_agreement(logits, teacher),
        retained=None if teacher is None else found / multilabel.mean_average_precision(teacher, labels),
        error=bootstrap_halfwidth(multilabel.mean_average_precision, logits, labels),
        count=len(labels),
    )


def _evaluate_targets(outputs: Tensor, targets: Tensor, teacher: Tensor | None) -> RegressionEvaluation:
    from nas_distill.evaluate import regression

    found = regression.r2(outputs, targets)
    alike = retained = None
    if teacher is not None:
        varied = bool((teacher != teacher[0]).any())
        alike = regression.r2(outputs, teacher) if varied else None
        of_teacher = regression.r2(teacher, targets)
        retained = found / of_teacher if of_teacher > 0 else None
    return RegressionEvaluation(
        r2=found,
        rmse=regression.rmse(outputs, targets),
        mae=regression.mae(outputs, targets),
        agreement=alike,
        retained=retained,
        error=bootstrap_halfwidth(regression.r2, outputs, targets),
        count=len(targets),
    )
