"""Several teachers as one: their answers mixed, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from nas_distill.common.errors import TeacherError
from nas_distill.data import Dataset, SplitName
from nas_distill.tasks import find_task
from nas_distill.teacher.answer import Answer
from nas_distill.teacher.signal import TeacherSignal

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
