"""Multi-label classification: any number of K labels per sample."""

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
class MultilabelEvaluation:
    """The metrics of a model on one split of multi-label data.

    Attributes:
        mean_average_precision: macro, over labels that any sample has, in [0, 1]; higher is better.
        f1: macro, at a threshold of 0.5, in [0, 1]; higher is better.
        nll: binary cross-entropy in nats per sample, summed over labels; lower is better.
        ece: expected calibration error of labels' probabilities in 15 bins, a share in [0, 1]; lower is better.
        agreement: share of label predictions, over all samples, equal to the teacher's; None without a teacher.
        retained: its mean average precision divided by the teacher's; None without a teacher.
        error: half-width of the 95 % bootstrap interval of mean average precision.
        count: number of samples.
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
        """Mean average precision."""
        return self.mean_average_precision


class Multilabel(Task):
    """Several labels per sample: labels (N, K) float32 of zeros and ones, outputs (N, K) logits."""

    name = "multilabel"
    quality_name = "mean average precision"
    output, outputs = "label", "labels"
    purpose = "A network that predicts which of {count} a sample has"
    result = "logits, one per label (its sigmoid is the label's probability),"
    same = "same labels"
    labels_loss, answers_loss = "bce", "bce_kd"
    stored_as = "(N, K) float32"
    record = MultilabelEvaluation
    metrics = (
        Metric(quality_name, "mean_average_precision"),
        Metric("share of teacher's", "retained"),
        Metric("agreement with teacher, label by label", "agreement"),
        Metric("F1 at 0.5, averaged over labels", "f1"),
        Metric("ECE of labels (lower is better)", "ece"),
        Metric("NLL of all labels, nats (lower is better)", "nll", ".4f"),
    )

    def targets(self, y: np.ndarray, samples: int, where: str) -> np.ndarray:
        """Return zeros and ones (N,) or (N, K) as (N, K) float32."""
        columns = as_columns(y, samples, self.name, where)
        self._check_binary(columns, where)
        return columns

    def fits(self, y: np.ndarray) -> bool:
        """Return True if labels are (N, K) float32."""
        return are_columns(y)

    def check(self, y: np.ndarray, outputs: int, data: str, where: str) -> None:
        """Refuse values other than 0 and 1, and splits without any label."""
        check_columns(y, outputs, self.outputs, where)
        self._check_binary(y, where)
        if not y.any():
            raise DataError(f"{where}: no sample has any label, so quality is undefined; give samples with labels.")

    def count_outputs(self, labels: Sequence[np.ndarray]) -> int:
        """Return the number of columns."""
        return int(labels[0].shape[1])

    def quality(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the mean average precision."""
        from nas_distill.evaluate.multilabel import mean_average_precision

        return mean_average_precision(outputs, labels)

    def constant_quality(self, labels: Tensor) -> float:
        """Return the frequency of labels, averaged over those that any sample has."""
        # A constant ranks samples equally, so its precision is the label's frequency at every threshold.
        shares = labels.double().mean(dim=0)
        return float(shares[shares > 0].mean())

    def evaluate(self, outputs: Tensor, labels: Tensor, teacher: Tensor | None = None) -> MultilabelEvaluation:
        """Return all metrics."""
        from nas_distill.evaluate import multilabel

        found = multilabel.mean_average_precision(outputs, labels)
        return MultilabelEvaluation(
            mean_average_precision=found,
            f1=multilabel.macro_f1(outputs, labels),
            nll=multilabel.label_nll(outputs, labels),
            ece=multilabel.label_ece(outputs, labels),
            agreement=None if teacher is None else multilabel.label_agreement(outputs, teacher),
            retained=None if teacher is None else found / multilabel.mean_average_precision(teacher, labels),
            error=bootstrap_halfwidth(multilabel.mean_average_precision, outputs, labels),
            count=len(labels),
        )

    def equal_predictions(self, one: Tensor, other: Tensor) -> Tensor:
        """Return a mask of samples with equal predictions of all labels at a threshold of 0.5."""
        return ((one > 0) == (other > 0)).all(dim=1)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the binary cross-entropy of each sample, summed over labels."""
        from torch.nn import functional

        wanted = labels.expand_as(outputs).to(outputs.dtype)
        return functional.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").sum(dim=-1)

    def entropies(self, outputs: Tensor) -> Tensor:
        """Return the entropy of the labels' probabilities, summed over labels."""
        return self.losses(outputs, outputs.sigmoid())

    def mixture(self, outputs: Tensor, weights: Tensor, temperature: float) -> Tensor:
        """Return logits at ``temperature`` of each label's mixed probability."""
        from torch.nn.functional import logsigmoid

        log_weights = weights.clamp_min(1e-30).log()[:, :, None]
        yes, no = ((logsigmoid(sign * outputs / temperature) + log_weights).logsumexp(dim=0) for sign in (1, -1))
        return temperature * (yes - no)

    def divergence(self, ours: Tensor, wanted: Tensor, variance: Tensor) -> Tensor:
        """Return the KL divergence of Bernoulli distributions, summed over labels."""
        import torch
        from torch.nn import functional

        log_ours, log_wanted = (
            torch.stack([torch.zeros_like(one), one], -1).log_softmax(-1) for one in (ours.double(), wanted.double())
        )
        return functional.kl_div(log_ours, log_wanted, reduction="none", log_target=True).flatten(1).sum(1)

    @staticmethod
    def _check_binary(y: np.ndarray, where: str) -> None:
        import numpy as np

        if not np.isin(y, (0, 1)).all():
            raise DataError(f"{where}: labels of a multi-label task must be 0 or 1, but there are other values.")
