"""Teacher signals: what a training loop reads of one live teacher, or of several combined."""

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

# What of a layer is kept. All but the full one are small enough to be stored.
Reduction = Literal["full", "pooled", "attention"]


@dataclass(frozen=True)
class Feature:
    """A teacher's layer and what of it is asked for.

    ``full``: as it is. ``pooled``: (D,) a sample, a map's mean over its places, or tokens' over tokens. ``attention``:
    (H, W) a sample, a map's mean square over channels (Zagoruyko and Komodakis, 2017, arXiv:1612.03928).
    ``named``: only terms that name it read it; it was not found as a layer of the kind that a loss reads.
    """

    layer: Layer
    reduction: Reduction = "full"
    named: bool = False

    @property
    def key(self) -> str:
        """Its name among the features of an answer."""
        return f"{self.layer.name}|{self.reduction}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample's, after the reduction."""
        shape = self.layer.shape
        if self.reduction == "attention":
            return shape[1:]
        if self.reduction == "pooled":
            return {"map": shape[:1], "tokens": shape[1:], "vector": shape}[self.layer.kind]
        return shape


@dataclass(frozen=True)
class Answer:
    """What a teacher says of a batch: ``logits`` (B, classes) float32, ``features`` by ``Feature.key`` (B, ...)."""

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)


def reduce_feature(value: Tensor, reduction: Reduction) -> Tensor:
    """Return what ``reduction`` keeps of a layer's output: (B, C, H, W), (B, N, D) or (B, D)."""
    if reduction == "attention":
        return attention_map(value)
    if reduction == "pooled":
        return pooled(value)
    return value


def pooled(value: Tensor) -> Tensor:
    """Return (B, D) of a layer's output: the mean over a map's places or over tokens."""
    if value.dim() == 4:
        return value.mean(dim=(2, 3))
    return value.mean(dim=1) if value.dim() == 3 else value


def attention_map(value: Tensor) -> Tensor:
    """Return (B, H, W) of a map (B, C, H, W): the mean square over channels."""
    return value.square().mean(dim=1)


class TeacherSignal(Protocol):
    """Gives the teacher's answer to a batch; the loop does not know whether it is computed or read.

    ``features``: which of the teacher's layers it tells of beside the logits.
    """

    num_classes: int
    features: tuple[Feature, ...]

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Return the teacher's logits and features, float32 on ``x``'s device.

        Args:
            split: which split the batch is of.
            index: (B,) int64, the samples' places in it.
            view: the view the student sees, or None for the samples as they are.
            x: (B, ...) the batch as the student sees it.
        """
        ...

    def identity(self) -> str:
        """Return what the answers depend on, as one string: a training that went on with another would be no resume."""
        ...

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless it can answer for ``data``; called once, before anything trains."""
        ...


class LiveSignal:
    """Runs the teacher on each batch beside the student, on the batch's device; what the store is checked against.

    Raises:
        TeacherError: the teacher is not frozen, now or when it is asked.
    """

    def __init__(
        self, teacher: Teacher, device: str | torch.device = "cpu", *, features: Sequence[Feature] = ()
    ) -> None:
        teacher.assert_frozen()
        self.features = tuple(features)
        self.teacher = teacher
        self.num_classes = teacher.num_classes
        self._device = torch.device(device)
        # In the quicker layout: a store asks it hundreds of thousands of times.
        place(teacher.module, self._device, memory_format(teacher.module))

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Return the teacher's answer, computed now."""
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
        """Raise TeacherError unless the data's classes are as many as the teacher's."""
        check_classes(self.num_classes, data)


def check_classes(num_classes: int, data: Dataset) -> None:
    """Raise TeacherError unless ``data`` has ``num_classes`` classes, labels or targets."""
    if num_classes != data.num_classes:
        what = find_task(data.task).outputs
        raise TeacherError(
            f"The teacher tells {num_classes} {'classes apart' if what == 'classes' else what}, but data '{data.name}' "
            f"has {data.num_classes}."
        )


Weighting = Literal["mean", "entropy", "confidence"]


class CombinedSignal:
    """Mixes what several teachers answer; a TeacherSignal. Inner layers are those of the first.

    The teachers may differ in architecture; each has a signal, and so a store, of its own. Their probabilities at
    ``temperature`` are mixed with weights that sum to 1, and the logits of the mixture at that temperature are the
    answer: KD at the same temperature then has the gradient of the weighted sum of KD from each teacher.

    ``by`` says how a sample's teachers are weighted. ``mean``: alike. ``entropy``: the surer a teacher, the more, by
    ``1 - H_k / sum(H)`` (Kwon et al., 2020, EBKD). ``confidence``: the nearer to the label, the more, by ``1 -
    softmax(CE)_k`` (CA-MKD; Zhang et al., 2022, arXiv:2201.00007). Of labels, entropies and cross-entropies are summed;
    a regression's outputs are averaged.

    Raises:
        TeacherError: ``by`` is another than ``mean`` for a regression.
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
                f"Teachers are combined by '{by}', which weighs how sure they are; for a {self.task} take mean."
            )
        self._labels: dict[SplitName, Tensor] = {"train": data.labels("train"), "val": data.labels("val")}

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Return the mixture's logits, and the first teacher's features."""
        answers = [signal.answer(split, index, view, x) for signal in self.signals]
        logits = torch.stack([answer.logits for answer in answers])
        weights = teacher_weights(logits, self._labels[split][index].to(x.device), self.by, self.task)
        return Answer(mixture(logits, weights, self.temperature, self.task), answers[0].features)

    def identity(self) -> str:
        """Return what the answers depend on."""
        each = ",".join(signal.identity() for signal in self.signals)
        return f"combined:{self.by}:{self.temperature!r}:{each}"

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless each teacher can answer for ``data``."""
        for signal in self.signals:
            signal.check(data)


def mixture(logits: Tensor, weights: Tensor, temperature: float, task: str = "classification") -> Tensor:
    """Return the logits (B, classes) at ``temperature`` of probabilities mixed; a regression's values averaged.

    Args:
        logits: (K, B, classes).
        weights: (K, B), summing to 1 over K.
        temperature: above 0.
        task: what the logits are of.
    """
    return find_task(task).mixture(logits, weights, temperature)


def teacher_weights(logits: Tensor, labels: Tensor, by: Weighting, task: str = "classification") -> Tensor:
    """Return each teacher's weight for each sample (K, B), summing to 1 over the K teachers.

    Args:
        logits: (K, B, classes) of K teachers.
        labels: (B,) int64 classes, or (B, classes) labels.
        by: see CombinedSignal.
        task: what they are of; one whose outputs have no entropy knows only ``mean``.
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
