"""Several teachers as one: their answers mixed, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from nas_distill.data import Dataset, SplitName
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
    softmax(CE)_k`` (CA-MKD; Zhang et al., 2022, arXiv:2201.00007).
    """

    def __init__(
        self, signals: Sequence[TeacherSignal], data: Dataset, *, by: Weighting = "mean", temperature: float = 4.0
    ) -> None:
        self.signals = tuple(signals)
        self.by = by
        self.temperature = temperature
        self.num_classes = self.signals[0].num_classes
        self.features = self.signals[0].features
        self._labels: dict[SplitName, Tensor] = {"train": data.labels("train"), "val": data.labels("val")}

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Return the mixture's logits, and the first teacher's features."""
        answers = [signal.answer(split, index, view, x) for signal in self.signals]
        logits = torch.stack([answer.logits for answer in answers])
        weights = teacher_weights(logits, self._labels[split][index].to(x.device), self.by)
        return Answer(mixture(logits, weights, self.temperature), answers[0].features)

    def identity(self) -> str:
        """Return what the answers depend on."""
        each = ",".join(signal.identity() for signal in self.signals)
        return f"combined:{self.by}:{self.temperature!r}:{each}"

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless each teacher can answer for ``data``."""
        for signal in self.signals:
            signal.check(data)


def mixture(logits: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Return the logits (B, classes) at ``temperature`` of probabilities mixed.

    Args:
        logits: (K, B, classes).
        weights: (K, B), summing to 1 over K.
        temperature: above 0.
    """
    log_shares = functional.log_softmax(logits / temperature, dim=2)
    return temperature * torch.logsumexp(log_shares + weights.clamp_min(1e-30).log()[:, :, None], dim=0)


def teacher_weights(logits: Tensor, labels: Tensor, by: Weighting) -> Tensor:
    """Return each teacher's weight for each sample (K, B), summing to 1 over the K teachers.

    Args:
        logits: (K, B, classes) of K teachers.
        labels: (B,) int64.
        by: see CombinedSignal.
    """
    count = len(logits)
    if by == "mean" or count == 1:
        return torch.full(logits.shape[:2], 1 / count, device=logits.device)
    log_shares = functional.log_softmax(logits, dim=2)
    if by == "entropy":
        entropy = -(log_shares.exp() * log_shares).sum(dim=2) + 1e-12
        shares = entropy / entropy.sum(dim=0)
    else:
        wrong = -log_shares.gather(2, labels.expand(count, -1)[:, :, None])[:, :, 0]
        shares = wrong.clamp_max(math.sqrt(torch.finfo(wrong.dtype).max)).softmax(dim=0)
    return (1 - shares) / (count - 1)
