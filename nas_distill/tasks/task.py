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


@dataclass(frozen=True)
class Metric:
    """One figure of an evaluation, as a row of a table.

    ``title`` gives its direction where lower is better; ``field`` is its name in the evaluation record; ``form``:
    ``percent``, or a format specification such as ``.4f``.
    """

    title: str
    field: str
    form: str = "percent"


class Evaluation(Protocol):
    """The figures of one model on one split: a frozen dataclass of its task, with these for all tasks."""

    @property
    def quality(self) -> float:
        """The figure by which models are compared; higher is better."""
        ...

    @property
    def error(self) -> float:
        """Half the width of the 95 % interval of quality."""
        ...

    @property
    def agreement(self) -> float | None:
        """Agreement with the teacher; None without one."""
        ...

    @property
    def retained(self) -> float | None:
        """Quality divided by the teacher's on the same samples; None without one, or where that says nothing."""
        ...

    @property
    def count(self) -> int:
        """Number of samples."""
        ...


class Task(ABC):
    """What a network tells of a sample, and all that follows from it.

    A subclass is one file of this package, or a user's own, which a search file names ``package.module:Class``. Outputs
    are (N, K) logits or values. It has no state.
    """

    name: ClassVar[str]
    quality_name: ClassVar[str]
    """Name of the quality in reports; higher is better, 1 is the best."""
    output: ClassVar[str]
    """Noun for one of the K outputs: class, label, target."""
    outputs: ClassVar[str]
    """Its plural."""
    result: ClassVar[str]
    """What a network returns, for whoever deploys it: "logits"."""
    purpose: ClassVar[str]
    """Sentence beginning for a card, with ``{count}`` for the number and noun of outputs: "A classifier of {count}"."""
    limits: ClassVar[str] = ""
    """What a network does with inputs that it does not know, as a clause for a card."""
    stored_as: ClassVar[str]
    """Shape and type of labels in a split: "(N,) int64"."""
    same: ClassVar[str] = ""
    """What two networks share where they answer alike: "same class". Empty where values are compared only by their
    difference."""
    labels_loss: ClassVar[str]
    """Name of the loss by which labels teach."""
    answers_loss: ClassVar[str]
    """Name of the plain loss by which the teacher's outputs teach."""
    answers_options: ClassVar[Mapping[str, float]] = {}
    """Options of that loss in the default training."""
    has_temperature: ClassVar[bool] = True
    """Whether that loss has a temperature."""
    training_without_teacher: ClassVar[str] = "labels only"
    """Name of the baseline that has no teacher."""
    has_entropy: ClassVar[bool] = True
    """Whether an output says how sure it is."""
    exclusive: ClassVar[bool] = False
    """Whether the outputs of a sample compete: their probabilities sum to 1."""
    metrics: ClassVar[Sequence[Metric]]
    """Rows of an evaluation in tables, the quality first."""
    record: ClassVar[type]
    """The dataclass that ``evaluate`` returns."""

    @property
    def fingerprint_tag(self) -> str:
        """Text in the fingerprint of data, which tells them from data of another task with the same labels."""
        return self.name

    # Labels.

    @abstractmethod
    def targets(self, y: np.ndarray, samples: int, where: str) -> np.ndarray:
        """Return the labels of ``samples`` samples as a split holds them.

        Raises:
            DataError: they are of another type or shape than the task's; the message begins with ``where``.
        """

    @abstractmethod
    def fits(self, y: np.ndarray) -> bool:
        """Say whether ``y`` is of the type and rank that ``targets`` returns."""

    @abstractmethod
    def check(self, y: np.ndarray, outputs: int, data: str, where: str) -> None:
        """Refuse labels that cannot be learnt or judged.

        Args:
            y: as ``targets`` returns them.
            outputs: number K of outputs.
            data: begins a message about the data as a whole.
            where: begins one about the split.

        Raises:
            DataError: out of range, not finite, or such that quality is not defined.
        """

    @abstractmethod
    def count_outputs(self, labels: Sequence[np.ndarray]) -> int:
        """Return the number K of outputs that the labels of all splits show."""

    # Judging.

    @abstractmethod
    def quality(self, outputs: Tensor, labels: Tensor) -> float:
        """Return the figure by which networks are compared, at most 1; higher is better.

        Raises:
            DataError: shapes do not fit, values are not finite, or quality is not defined for these labels.
        """

    @abstractmethod
    def constant_quality(self, labels: Tensor) -> float:
        """Return the quality of the best constant answer.

        Raises:
            DataError: as ``quality``.
        """

    @abstractmethod
    def evaluate(self, outputs: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Evaluation:
        """Return every figure of a model's outputs (N, K), compared with the teacher's (N, K) if given.

        Raises:
            DataError: as ``quality``.
        """

    @abstractmethod
    def same_answers(self, one: Tensor, other: Tensor) -> Tensor:
        """Return for which samples two networks answer the same, (N,) bool; all True where there is no sameness."""

    # Learning.

    @abstractmethod
    def losses(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss on labels of each sample, without reduction: (..., K) outputs give (...)."""

    def entropies(self, outputs: Tensor) -> Tensor:
        """Return the entropy of the answers (..., K), in nats: (...).

        Raises:
            NotImplementedError: ``has_entropy`` is False.
        """
        raise NotImplementedError(f"an output of a {self.name} has no entropy")

    @abstractmethod
    def mixture(self, outputs: Tensor, weights: Tensor, temperature: float) -> Tensor:
        """Return the outputs (B, K) of several networks mixed, (M, B, K), with weights (M, B) that sum to 1 over M.

        Where outputs are logits, probabilities at ``temperature`` (above 0) are mixed.
        """

    @abstractmethod
    def divergence(self, ours: Tensor, wanted: Tensor, variance: Tensor) -> Tensor:
        """Return KL(teacher || student) of each sample (B,) in nats, from outputs (B, K).

        ``variance`` (K,) is that of the teacher's outputs over samples, for tasks whose outputs are no probabilities.
        """


def as_columns(y: np.ndarray, samples: int, task: str, where: str) -> np.ndarray:
    """Return numbers (N,) or (N, K) as (N, K) float32.

    Raises:
        DataError: they are of another shape, or no numbers.
    """
    import numpy as np

    if y.ndim == 1 and len(y) == samples:
        y = y[:, None]
    if y.ndim != 2 or len(y) != samples or not y.shape[1]:
        raise DataError(f"{where}: y has shape {y.shape}; for {samples} samples of {task} it must be ({samples}, K).")
    if y.dtype.kind not in "iufb":
        raise DataError(f"{where}: y is {y.dtype}; it must be numbers.")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and the check refuses that
        return y.astype(np.float32, copy=False)


def check_columns(y: np.ndarray, outputs: int, plural: str, where: str) -> None:
    """Raise DataError unless there are ``outputs`` columns of finite numbers."""
    import numpy as np

    if y.shape[1] != outputs:
        raise DataError(f"{where}: y has {y.shape[1]} columns for {outputs} {plural}.")
    if not np.isfinite(y).all():
        bad = int(np.flatnonzero(~np.isfinite(y).all(axis=1))[0])
        raise DataError(f"{where}: the {plural} of sample {bad} hold NaN or infinity; remove or mend it.")


def are_columns(y: np.ndarray) -> bool:
    """Say whether labels are (N, K) float32."""
    return y.dtype.name == "float32" and y.ndim == 2
