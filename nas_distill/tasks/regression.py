"""Regression: K numbers per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas_distill.evaluate.intervals import bootstrap_halfwidth
from nas_distill.tasks.task import Metric, Task, are_columns, as_columns, check_columns
from nas_distill.utils.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


@dataclass(frozen=True)
class RegressionEvaluation:
    """The metrics of a model on one split of samples with targets.

    Attributes:
        r2: coefficient of determination, averaged over targets, at most 1; higher is better.
        rmse: root of the mean squared error, in units of the targets; lower is better.
        mae: mean absolute error, in units of the targets; lower is better.
        agreement: R^2 of its outputs with the teacher's outputs as targets; None without a teacher, or if the
            teacher's outputs are constant.
        retained: its R^2 divided by the teacher's; None without a teacher, or if the teacher's is not above 0.
        error: half-width of the 95 % bootstrap interval of R^2.
        count: number of samples.
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
        """R^2."""
        return self.r2


class Regression(Task):
    """K numbers per sample: labels and outputs (N, K) float32."""

    name = "regression"
    quality_name = "R\N{SUPERSCRIPT TWO}"
    output, outputs = "target", "targets"
    purpose = "A network that predicts {count} of a sample (a regression)"
    limits = ", and returns a number for any input"
    result = "values, in units of the targets,"
    labels_loss, answers_loss = "squared_error", "mse"
    has_temperature = False
    has_entropy = False
    stored_as = "(N, K) float32"
    record = RegressionEvaluation
    metrics = (
        Metric(quality_name, "r2"),
        Metric("share of teacher's", "retained"),
        Metric(f"agreement with teacher, {quality_name}", "agreement"),
        Metric("RMSE (lower is better)", "rmse", ".4g"),
        Metric("MAE (lower is better)", "mae", ".4g"),
    )

    def targets(self, y: np.ndarray, samples: int, where: str) -> np.ndarray:
        """Return numbers (N,) or (N, K) as (N, K) float32."""
        return as_columns(y, samples, self.name, where)

    def fits(self, y: np.ndarray) -> bool:
        """Return True if labels are (N, K) float32."""
        return are_columns(y)

    def check(self, y: np.ndarray, outputs: int, data: str, where: str) -> None:
        """Refuse constant targets."""
        import numpy as np

        check_columns(y, outputs, self.outputs, where)
        if not np.ptp(y, axis=0).any():
            raise DataError(
                f"{where}: all samples have the same targets, so quality is undefined; give targets that vary."
            )

    def count_outputs(self, labels: Sequence[np.ndarray]) -> int:
        """Return the number of columns."""
        return int(labels[0].shape[1])

    def quality(self, outputs: Tensor, labels: Tensor) -> float:
        """Return R^2."""
        from nas_distill.evaluate.regression import r2

        return r2(outputs, labels)

    def constant_quality(self, labels: Tensor) -> float:
        """Return 0, the R^2 of predicting the mean of the targets."""
        return 0.0

    def evaluate(self, outputs: Tensor, labels: Tensor, teacher: Tensor | None = None) -> RegressionEvaluation:
        """Return all metrics."""
        from nas_distill.evaluate import regression

        found = regression.r2(outputs, labels)
        alike = retained = None
        if teacher is not None:
            varied = bool((teacher != teacher[0]).any())
            alike = regression.r2(outputs, teacher) if varied else None
            of_teacher = regression.r2(teacher, labels)
            retained = found / of_teacher if of_teacher > 0 else None
        return RegressionEvaluation(
            r2=found,
            rmse=regression.rmse(outputs, labels),
            mae=regression.mae(outputs, labels),
            agreement=alike,
            retained=retained,
            error=bootstrap_halfwidth(regression.r2, outputs, labels),
            count=len(labels),
        )

    def equal_predictions(self, one: Tensor, other: Tensor) -> Tensor:
        """Return True for all samples, since values are compared only by their difference."""
        import torch

        return torch.ones(len(one), dtype=torch.bool)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the squared error of each sample, averaged over targets."""
        return (outputs - labels).square().mean(dim=-1)

    def mixture(self, outputs: Tensor, weights: Tensor, temperature: float) -> Tensor:
        """Return the weighted average."""
        return (weights[:, :, None] * outputs).sum(dim=0)

    def divergence(self, ours: Tensor, wanted: Tensor, variance: Tensor) -> Tensor:
        """Return the KL divergence of normal distributions with these means and the teacher's variance per output."""
        return ((ours.double() - wanted.double()).square() / (2 * variance.double())).sum(1)
