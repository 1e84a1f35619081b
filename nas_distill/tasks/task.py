"""The task interface: labels, quality, losses, agreement with the teacher, evaluation and report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from nas_distill.utils.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from nas_distill.evaluate.paired import PairedDifference


@dataclass(frozen=True)
class Metric:
    """A metric of an evaluation, as a row of a table.

    ``title`` includes the direction if lower is better; ``field`` is the name in the evaluation record; ``form`` is
    ``percent`` or a format specification such as ``.4f``.
    """

    title: str
    field: str
    form: str = "percent"


class Evaluation(Protocol):
    """The metrics of one model on one split: a frozen dataclass of its task, with properties common to all tasks."""

    @property
    def quality(self) -> float:
        """The metric by which models are compared; higher is better."""
        ...

    @property
    def error(self) -> float:
        """Half-width of the 95 % interval of quality."""
        ...

    @property
    def agreement(self) -> float | None:
        """Agreement with the teacher; None without one."""
        ...

    @property
    def retained(self) -> float | None:
        """Quality divided by the teacher's on the same samples; None without one, or if the ratio is undefined."""
        ...

    @property
    def count(self) -> int:
        """Number of samples."""
        ...


class Task(ABC):
    """A task of supervised learning: labels, quality, losses, and evaluation of outputs (N, K), logits or values.

    A subclass is one file of this package, or a user's own, which a search file names ``package.module:Class``. It has
    no state.
    """

    name: ClassVar[str]
    quality_name: ClassVar[str]
    """Name of the quality in reports; higher is better, 1 is the best."""
    output: ClassVar[str]
    """Noun for one of the K outputs: "class", "label" or "target"."""
    outputs: ClassVar[str]
    """Its plural."""
    result: ClassVar[str]
    """Noun for the outputs of a network in its card: "logits"."""
    purpose: ClassVar[str]
    """Beginning of a card's sentence, with ``{count}`` for number and noun of outputs: "A classifier of {count}"."""
    limits: ClassVar[str] = ""
    """Clause of a card about inputs unlike the training data."""
    stored_as: ClassVar[str]
    """Shape and type of labels in a split: "(N,) int64"."""
    same: ClassVar[str] = ""
    """Noun for equal predictions of two networks: "same class". Empty if values are compared only by difference."""
    labels_loss: ClassVar[str]
    """Name of the loss between outputs and labels."""
    answers_loss: ClassVar[str]
    """Name of the default loss between outputs and the teacher's outputs."""
    answers_options: ClassVar[Mapping[str, float]] = {}
    """Options of the teacher loss in the default training."""
    has_temperature: ClassVar[bool] = True
    """True if the teacher loss has a temperature."""
    training_without_teacher: ClassVar[str] = "labels only"
    """Name of the baseline without a teacher."""
    has_entropy: ClassVar[bool] = True
    """True if outputs have an entropy."""
    exclusive: ClassVar[bool] = False
    """True if exactly one output of a sample applies: their probabilities sum to 1."""
    metrics: ClassVar[Sequence[Metric]]
    """Metrics of an evaluation in tables, quality first."""
    record: ClassVar[type]
    """The dataclass that ``evaluate`` returns."""

    @property
    def fingerprint_tag(self) -> str:
        """Text in the fingerprint of data, which distinguishes tasks with the same labels."""
        return self.name

    # Labels.

    @abstractmethod
    def targets(self, y: np.ndarray, samples: int, where: str) -> np.ndarray:
        """Return the labels of ``samples`` samples as a split holds them.

        Raises:
            DataError: the type or shape does not fit the task; the message begins with ``where``.
        """

    @abstractmethod
    def fits(self, y: np.ndarray) -> bool:
        """Return True if ``y`` has the type and rank that ``targets`` returns."""

    @abstractmethod
    def check(self, y: np.ndarray, outputs: int, data: str, where: str) -> None:
        """Check labels for training and evaluation.

        Args:
            y: labels as returned by ``targets``.
            outputs: number K of outputs.
            data: start of messages about the data set.
            where: start of messages about the split.

        Raises:
            DataError: labels are out of range or not finite, or quality is undefined for them.
        """

    @abstractmethod
    def count_outputs(self, labels: Sequence[np.ndarray]) -> int:
        """Return the number K of outputs, given the labels of all splits."""

    # Evaluation.

    @abstractmethod
    def quality(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the metric by which networks are compared, at most 1; higher is better.

        Raises:
            DataError: shapes do not match, values are not finite, or quality is undefined for these labels.
        """

    @abstractmethod
    def constant_quality(self, labels: Tensor) -> float:
        """Return the quality of the best constant prediction.

        Raises:
            DataError: as ``quality``.
        """

    @abstractmethod
    def evaluate(self, outputs: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Evaluation:
        """Return all metrics of a model's outputs (N, K), compared with the teacher's (N, K) if given.

        Raises:
            DataError: as ``quality``.
        """

    def difference(self, one: Tensor, other: Tensor, labels: Tensor) -> PairedDifference:
        """Return the quality of outputs ``one`` minus that of ``other``, both (N, K), with its paired 95 % interval.

        By a bootstrap over samples, which is valid for any quality.

        Raises:
            DataError: as ``quality``.
        """
        from nas_distill.evaluate.paired import paired_bootstrap

        return paired_bootstrap(self.quality, one, other, labels)

    @abstractmethod
    def equal_predictions(self, one: Tensor, other: Tensor) -> Tensor:
        """Return a mask (N,) of equal predictions; all True for tasks without ``same``."""

    # Training.

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss on labels per sample, without reduction: (..., K) outputs give (...)."""

    def entropies(self, outputs: Tensor) -> Tensor:
        """Return the entropy of outputs (..., K) in nats: (...).

        Raises:
            NotImplementedError: ``has_entropy`` is False.
        """
        raise NotImplementedError(f"an output of a {self.name} has no entropy")

    @abstractmethod
    def mixture(self, outputs: Tensor, weights: Tensor, temperature: float) -> Tensor:
        """Return the mixture (B, K) of several networks' outputs (M, B, K), with weights (M, B) that sum to 1 over M.

        If outputs are logits, probabilities at ``temperature`` (above 0) are mixed.
        """

    @abstractmethod
    def divergence(self, ours: Tensor, wanted: Tensor, variance: Tensor) -> Tensor:
        """Return KL(teacher || student) per sample (B,) in nats, from outputs (B, K).

        ``variance`` (K,) is that of the teacher's outputs over samples, for tasks whose outputs are not probabilities.
        """


def as_columns(y: np.ndarray, samples: int, task: str, where: str) -> np.ndarray:
    """Return numbers (N,) or (N, K) as (N, K) float32.

    Raises:
        DataError: the shape is wrong, or values are not numbers.
    """
    import numpy as np

    if y.ndim == 1 and len(y) == samples:
        y = y[:, None]
    if y.ndim != 2 or len(y) != samples or not y.shape[1]:
        raise DataError(f"{where}: y has shape {y.shape}; for {samples} samples of {task} it must be ({samples}, K).")
    if y.dtype.kind not in "iufb":
        raise DataError(f"{where}: y is {y.dtype}; it must be numbers.")
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, and the check refuses those
        return y.astype(np.float32, copy=False)


def check_columns(y: np.ndarray, outputs: int, plural: str, where: str) -> None:
    """Raise DataError unless there are ``outputs`` columns of finite numbers."""
    import numpy as np

    if y.shape[1] != outputs:
        raise DataError(f"{where}: y has {y.shape[1]} columns for {outputs} {plural}.")
    if not np.isfinite(y).all():
        bad = int(np.flatnonzero(~np.isfinite(y).all(axis=1))[0])
        raise DataError(f"{where}: the {plural} of sample {bad} hold NaN or infinity; remove or correct it.")


def are_columns(y: np.ndarray) -> bool:
    """Return True if labels are (N, K) float32."""
    return y.dtype.name == "float32" and y.ndim == 2
