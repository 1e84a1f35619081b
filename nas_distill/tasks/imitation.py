"""Imitation: no labels; the teacher's answers are the target, and quality is agreement with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_distill.tasks.classification import Classification, ClassificationEvaluation
from nas_distill.tasks.regression import Regression
from nas_distill.tasks.task import Metric

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class ImitationEvaluation(ClassificationEvaluation):
    """The metrics of a student on one split of unlabelled data.

    ``accuracy`` is the share of samples with the teacher's prediction, ``nll`` and ``ece`` are computed with the
    teacher's predictions as labels; ``agreement`` and ``retained`` are None, since they would repeat ``accuracy``.
    """


class Imitation(Classification):
    """Imitation of a classifier: labels (N,) int64 are the teacher's predicted classes, outputs (N, K) logits."""

    name = "imitation"
    quality_name = "agreement with the teacher"
    purpose = "A classifier of {count} that imitates its teacher"
    labelled = False
    training_without_teacher = "the teacher's predictions only"
    record = ImitationEvaluation
    metrics = (
        Metric("agreement with the teacher", "accuracy"),
        Metric("ECE against the teacher's predictions (lower is better)", "ece"),
        Metric("NLL of the teacher's predictions, nats (lower is better)", "nll", ".4f"),
    )

    @property
    def fingerprint_tag(self) -> str:
        """The name of the task."""
        return self.name

    def unanswered(self, samples: int) -> np.ndarray:
        """Return labels before the teacher has answered."""
        import numpy as np

        return np.zeros(samples, dtype=np.int64)

    def from_answers(self, answers: Tensor) -> Tensor:
        """Return the teacher's predicted classes."""
        return answers.argmax(dim=1)

    def check(self, y: np.ndarray, outputs: int, data: str, where: str) -> None:
        """Check labels once the teacher has answered."""
        if outputs:
            super().check(y, outputs, data, where)

    def evaluate(self, outputs: Tensor, labels: Tensor, teacher: Tensor | None = None) -> ImitationEvaluation:
        """Return all metrics, against the teacher's answers."""
        return ImitationEvaluation(**vars(super().evaluate(outputs, labels)))


class ImitationOfValues(Regression):
    """Imitation of a network whose outputs are not classes: labels (N, K) float32 are the teacher's outputs."""

    name = "imitation-values"
    quality_name = "R\N{SUPERSCRIPT TWO} of the teacher's outputs"
    output, outputs = "output", "outputs"
    purpose = "A network with {count} that imitates its teacher"
    limits = ""
    labelled = False
    training_without_teacher = "the teacher's outputs only"
    metrics = (
        Metric("R\N{SUPERSCRIPT TWO} of the teacher's outputs", "r2"),
        Metric("RMSE (lower is better)", "rmse", ".4g"),
        Metric("MAE (lower is better)", "mae", ".4g"),
    )

    def unanswered(self, samples: int) -> np.ndarray:
        """Return labels before the teacher has answered."""
        import numpy as np

        return np.zeros((samples, 1), dtype=np.float32)

    def from_answers(self, answers: Tensor) -> Tensor:
        """Return the teacher's outputs."""
        return answers

    def check(self, y: np.ndarray, outputs: int, data: str, where: str) -> None:
        """Check labels once the teacher has answered."""
        if outputs:
            super().check(y, outputs, data, where)

    def evaluate(self, outputs: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Any:
        """Return all metrics, against the teacher's answers."""
        return super().evaluate(outputs, labels)
