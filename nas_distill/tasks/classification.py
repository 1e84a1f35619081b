"""Classification: one class per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from nas_distill.evaluate.intervals import accuracy_halfwidth
from nas_distill.tasks.task import Metric, Task
from nas_distill.utils.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from nas_distill.evaluate.paired import PairedDifference


@dataclass(frozen=True)
class ClassificationEvaluation:
    """The metrics of a classifier on one split of labelled data.

    Attributes:
        accuracy: share of correct top-1 predictions, in [0, 1]; higher is better.
        nll: mean negative log-likelihood, nats per sample; lower is better.
        ece: expected calibration error of 15 bins, a share in [0, 1]; lower is better.
        agreement: share of samples with the teacher's prediction; None without a teacher.
        retained: its accuracy divided by the teacher's on the same samples (above 1: better than the teacher); None
            without a teacher, or if the teacher was never correct.
        count: number of samples.
    """

    accuracy: float
    nll: float
    ece: float
    agreement: float | None
    retained: float | None
    count: int

    @property
    def quality(self) -> float:
        """Accuracy."""
        return self.accuracy

    @property
    def error(self) -> float:
        """Half-width of the 95 % interval (Wilson) of accuracy."""
        return accuracy_halfwidth(self.accuracy, self.count)


class Classification(Task):
    """One class per sample: labels (N,) int64, outputs (N, K) logits."""

    name = "classification"
    quality_name = "accuracy"
    output, outputs = "class", "classes"
    purpose = "A classifier of {count}"
    limits = ", and returns one of them for any input"
    result = "logits"
    stored_as = "(N,) int64"
    same = "same class"
    labels_loss, answers_loss = "cross_entropy", "kd"
    answers_options = MappingProxyType({"temperature": 4.0})
    training_without_teacher = "hard labels"
    exclusive = True
    record = ClassificationEvaluation
    metrics = (
        Metric("accuracy", "accuracy"),
        Metric("share of teacher's", "retained"),
        Metric("agreement with teacher", "agreement"),
        Metric("ECE (lower is better)", "ece"),
        Metric("NLL, nats (lower is better)", "nll", ".4f"),
    )

    @property
    def fingerprint_tag(self) -> str:
        """An empty text for classification itself, the class name for subclasses."""
        return "" if type(self) is Classification else self.name

    def targets(self, y: np.ndarray, samples: int, where: str) -> np.ndarray:
        """Return integer labels (N,) as int64."""
        import numpy as np

        if y.ndim != 1 or len(y) != samples:
            raise DataError(f"{where}: y has shape {y.shape}; for {samples} samples it must be ({samples},).")
        if y.dtype.kind == "f":
            with np.errstate(invalid="ignore"):
                whole = bool(np.equal(np.mod(y, 1), 0).all())
        else:
            whole = y.dtype.kind in "iub"
        if not whole:
            hint = "; for regression give task='regression'" if y.dtype.kind == "f" else ""
            raise DataError(f"{where}: labels are {y.dtype}; they must be whole numbers from 0{hint}.")
        return y.astype(np.int64, copy=False)

    def fits(self, y: np.ndarray) -> bool:
        """Return True if labels are (N,) int64."""
        return y.dtype.name == "int64" and y.ndim == 1

    def check(self, y: np.ndarray, outputs: int, data: str, where: str) -> None:
        """Refuse fewer than two classes, and labels that are not in 0..K-1."""
        if outputs < 2:
            raise DataError(f"{data} has {outputs} class; a classification needs at least two.")
        low, high = int(y.min()), int(y.max())
        if low < 0 or high >= outputs:
            raise DataError(
                f"{where}: labels run from {low} to {high}, but with {outputs} classes they must be in "
                f"0..{outputs - 1}."
            )

    def count_outputs(self, labels: Sequence[np.ndarray]) -> int:
        """Return the largest label + 1."""
        return int(max((part.max() for part in labels if len(part)), default=-1)) + 1

    def quality(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the accuracy."""
        from nas_distill.evaluate.classification import accuracy

        return accuracy(outputs, labels)

    def difference(self, one: Tensor, other: Tensor, labels: Tensor) -> PairedDifference:
        """Return the difference in accuracy; the interval is that of paired proportions."""
        from nas_distill.evaluate.classification import correct
        from nas_distill.evaluate.paired import paired_proportions

        if type(self).quality is not Classification.quality:  # a subclass with another metric
            return super().difference(one, other, labels)
        return paired_proportions(correct(one, labels), correct(other, labels))

    def constant_quality(self, labels: Tensor) -> float:
        """Return the share of the most frequent class."""
        return float(labels.bincount().max()) / len(labels)

    def evaluate(self, outputs: Tensor, labels: Tensor, teacher: Tensor | None = None) -> ClassificationEvaluation:
        """Return all metrics; raises DataError for labels out of range too."""
        from nas_distill.evaluate import classification as metrics

        accuracy = metrics.accuracy(outputs, labels)
        alike = retained = None
        if teacher is not None:
            alike = metrics.agreement(outputs, teacher)
            of_teacher = metrics.accuracy(teacher, labels)
            retained = accuracy / of_teacher if of_teacher > 0 else None
        return ClassificationEvaluation(
            accuracy=accuracy,
            nll=metrics.nll(outputs, labels),
            ece=metrics.ece(outputs, labels),
            agreement=alike,
            retained=retained,
            count=len(labels),
        )

    def equal_predictions(self, one: Tensor, other: Tensor) -> Tensor:
        """Return a mask of samples with the same predicted class."""
        return one.argmax(dim=1) == other.argmax(dim=1)

    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of each sample."""
        log_shares = outputs.log_softmax(dim=-1)
        return -log_shares.gather(-1, labels.expand(outputs.shape[:-1])[..., None])[..., 0]

    def entropies(self, outputs: Tensor) -> Tensor:
        """Return the entropy of the class probabilities."""
        log_shares = outputs.log_softmax(dim=-1)
        return -(log_shares.exp() * log_shares).sum(dim=-1)

    def mixture(self, outputs: Tensor, weights: Tensor, temperature: float) -> Tensor:
        """Return logits at ``temperature`` of the mixed class probabilities."""
        log_shares = (outputs / temperature).log_softmax(dim=2)
        return temperature * (log_shares + weights.clamp_min(1e-30).log()[:, :, None]).logsumexp(dim=0)

    def divergence(self, ours: Tensor, wanted: Tensor, variance: Tensor) -> Tensor:
        """Return the KL divergence of the class probabilities."""
        from torch.nn import functional

        log_ours, log_wanted = ours.double().log_softmax(-1), wanted.double().log_softmax(-1)
        return functional.kl_div(log_ours, log_wanted, reduction="none", log_target=True).sum(1)
