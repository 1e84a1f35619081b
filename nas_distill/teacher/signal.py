"""Teacher signals: the answers of one live teacher, or of several combined, to training batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from nas_distill.data import Dataset, SplitName
from nas_distill.tasks import find_task
from nas_distill.teacher.teacher import Teacher
from nas_distill.utils.errors import TeacherError
from nas_distill.utils.layers import Layer, Tap
from nas_distill.utils.modules import memory_format, place

# The part of a layer's output that is kept. All but `full` are small enough to be stored.
Reduction = Literal["full", "pooled", "attention"]


@dataclass(frozen=True)
class Feature:
    """A teacher's layer with the reduction of its output that loss terms read.

    ``reduction``: ``full`` is the output itself; ``pooled`` has shape (D,) per sample, the mean of a map over positions
    or of tokens over tokens; ``attention`` has shape (H, W) per sample, the mean square of a map over channels
    (Zagoruyko and Komodakis, 2017, arXiv:1612.03928). ``named``: only terms that name the layer read it, because it
    was not found as a layer of the kind that a loss reads.
    """

    layer: Layer
    reduction: Reduction = "full"
    named: bool = False

    @property
    def key(self) -> str:
        """Key of the feature in ``Answer.features``."""
        return f"{self.layer.name}|{self.reduction}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape per sample, after the reduction."""
        shape = self.layer.shape
        if self.reduction == "attention":
            return shape[1:]
        if self.reduction == "pooled":
            return {"map": shape[:1], "tokens": shape[1:], "vector": shape}[self.layer.kind]
        return shape


@dataclass(frozen=True)
class Answer:
    """A teacher's answer to a batch: ``logits`` (B, classes) float32, ``features`` (B, ...) by ``Feature.key``."""

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


def reduce_feature(value: Tensor, reduction: Reduction) -> Tensor:
    """Return the reduction of a layer's output (B, C, H, W), (B, N, D) or (B, D)."""
    if reduction == "attention":
        return attention_map(value)
    if reduction == "pooled":
        return pooled(value)
    return value


def pooled(value: Tensor) -> Tensor:
    """Return the mean (B, D) of a layer's output over the positions of a map or over tokens."""
    if value.dim() == 4:
        return value.mean(dim=(2, 3))
    return value.mean(dim=1) if value.dim() == 3 else value


def attention_map(value: Tensor) -> Tensor:
    """Return the mean square (B, H, W) over channels of a map (B, C, H, W)."""
    return value.square().mean(dim=1)


class TeacherSignal(Protocol):
    """Source of the teacher's answers to batches; the training loop does not know whether they are computed or read.

    ``features``: the teacher's layers that are answered beside the logits.
    """

    num_classes: int
    features: tuple[Feature, ...]

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Return the teacher's logits and features, float32 on ``x``'s device.

        Args:
            split: the split of the batch.
            index: (B,) int64, the indices of the samples in the split.
            view: the view that the student gets, or None for unaugmented samples.
            x: (B, ...), the batch that the student gets.
        """
        ...

    def identity(self) -> str:
        """Return one string for all that the answers depend on; a checkpoint resumes only with the same one."""
        ...

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless the signal can answer for ``data``; called once, before training."""
        ...


class LiveSignal:
    """A signal that runs the teacher on each batch, on the batch's device; the reference that a store is checked with.

    Raises:
        TeacherError: the teacher is not frozen, at construction or at an answer.
    """

    def __init__(
        self, teacher: Teacher, device: str | torch.device = "cpu", *, features: Sequence[Feature] = ()
    ) -> None:
        teacher.assert_frozen()
        self.features = tuple(features)
        self.teacher = teacher
        self.num_classes = teacher.num_classes
        self._device = torch.device(device)
        # The faster memory layout matters: writing a store takes hundreds of thousands of answers.
        place(teacher.module, self._device, memory_format(teacher.module))

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Run the teacher on ``x`` and return its answer."""
        self.teacher.assert_frozen()
        if x.device != self._device:
            self._device = x.device
            self.teacher.module.to(x.device)
        with torch.no_grad():
            if not self.features:
                return Answer(self.teacher.module(x).float())
            with self._tap:
                logits = self.teacher.module(x).float()
            found = self._tap.features
            features = {
                feature.key: reduce_feature(found[feature.layer.name].float(), feature.reduction)
                for feature in self.features
            }
        return Answer(logits, features)

    @cached_property
    def _tap(self) -> Tap:
        return Tap(self.teacher.module, [feature.layer.name for feature in self.features])

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_tap"}

    def identity(self) -> str:
        """Return the fingerprint of the teacher."""
        return f"teacher:{self.teacher.fingerprint}"

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless data and teacher have the same number of classes."""
        check_classes(self.num_classes, data)


def check_classes(num_classes: int, data: Dataset) -> None:
    """Raise TeacherError unless ``data`` has ``num_classes`` classes, labels or targets."""
    if num_classes != data.num_classes:
        what = find_task(data.task).outputs
        raise TeacherError(
            f"The teacher has {num_classes} {what}, but data '{data.name}' has {data.num_classes}; they must be equal."
        )


Weighting = Literal["mean", "entropy", "confidence"]


class CombinedSignal:
    """The mixture of several teachers' answers; a TeacherSignal. Features are those of the first teacher.

    The teachers may differ in architecture; each has its own signal, and so its own store. Their probabilities at
    ``temperature`` are mixed with weights that sum to 1. The answer is the mixture's logits at that temperature, so KD
    at the same temperature has the gradient of the weighted sum of KD from each teacher.

    ``by`` sets the teachers' weights per sample. ``mean``: equal. ``entropy``: higher for a more certain teacher,
    ``1 - H_k / sum(H)`` (Kwon et al., 2020, EBKD). ``confidence``: higher for a teacher nearer to the label,
    ``1 - softmax(CE)_k`` (CA-MKD; Zhang et al., 2022, arXiv:2201.00007). For multi-label tasks, entropies and
    cross-entropies are summed over labels; regression outputs are averaged.

    Raises:
        TeacherError: ``by`` is not ``mean`` for a regression.
    """

    def __init__(
        self, signals: Sequence[TeacherSignal], data: Dataset, *, by: Weighting = "mean", temperature: float = 4.0
    ) -> None:
        self.signals = tuple(signals)
        self.by = by
        self.temperature = temperature
        self.num_classes = self.signals[0].num_classes
        self.features = self.signals[0].features
        self.task = data.task
        if not find_task(self.task).has_entropy and by != "mean":
            raise TeacherError(
                f"Teachers are combined by '{by}', which needs class probabilities; for a {self.task} use 'mean'."
            )
        self._labels: dict[SplitName, Tensor] = {"train": data.labels("train"), "val": data.labels("val")}

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Return the logits of the mixture, and the first teacher's features."""
        answers = [signal.answer(split, index, view, x) for signal in self.signals]
        logits = torch.stack([answer.logits for answer in answers])
        weights = teacher_weights(logits, self._labels[split][index].to(x.device), self.by, self.task)
        return Answer(mixture(logits, weights, self.temperature, self.task), answers[0].features)

    def identity(self) -> str:
        """Return one string for all that the answers depend on."""
        each = ",".join(signal.identity() for signal in self.signals)
        return f"combined:{self.by}:{self.temperature!r}:{each}"

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless each teacher can answer for ``data``."""
        for signal in self.signals:
            signal.check(data)


def mixture(logits: Tensor, weights: Tensor, temperature: float, task: str = "classification") -> Tensor:
    """Return the logits (B, classes) at ``temperature`` of mixed probabilities; regression values are averaged.

    Args:
        logits: (K, B, classes).
        weights: (K, B), summing to 1 over K.
        temperature: above 0.
        task: the task of the logits.
    """
    return find_task(task).mixture(logits, weights, temperature)


def teacher_weights(logits: Tensor, labels: Tensor, by: Weighting, task: str = "classification") -> Tensor:
    """Return the weights (K, B) of K teachers per sample, summing to 1 over the teachers.

    Args:
        logits: (K, B, classes) of K teachers.
        labels: (B,) int64 classes, or (B, classes) labels.
        by: see CombinedSignal.
        task: the task of the labels; if its outputs have no entropy, only ``mean`` is possible.
    """
    count = len(logits)
    if by == "mean" or count == 1:
        return torch.full(logits.shape[:2], 1 / count, device=logits.device)
    if by == "entropy":
        entropy = find_task(task).entropies(logits) + 1e-12
        shares = entropy / entropy.sum(dim=0)
    else:
        wrong = find_task(task).losses(logits, labels)
        shares = wrong.clamp_max(math.sqrt(torch.finfo(wrong.dtype).max)).softmax(dim=0)
    return (1 - shares) / (count - 1)
