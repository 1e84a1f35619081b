"""Mutual learning: students that teach each other during training (Zhang et al., 2018, arXiv:1706.00384)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas_distill.data import Dataset, SplitName
from nas_distill.distill.distiller import Distiller
from nas_distill.teacher.signal import Answer, TeacherSignal, mixture


class MutualSignal:
    """Mixture of the answers of a student's peers and the teacher; a TeacherSignal for ``Distiller``.

    In deep mutual learning (Zhang et al., 2018, arXiv:1706.00384) each student learns from the mean divergence to the
    others. Here peers answer with their averaged weights, which are more stable than those of the last step, and the
    teacher counts as one more peer. Features are the teacher's.

    ``peers`` is set by ``connect_peers`` once all students exist; until then the teacher is the only source.
    """

    def __init__(self, teacher: TeacherSignal, temperature: float, task: str = "classification") -> None:
        self.teacher = teacher
        self.temperature = temperature
        self.task = task
        self.peers: list[Distiller] = []
        self.num_classes = teacher.num_classes
        self.features = teacher.features

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Return the logits of the mixture, and the teacher's features."""
        answer = self.teacher.answer(split, index, view, x)
        with torch.no_grad():
            others = [peer.averaged.module(x).float() for peer in self.peers]
        logits = torch.stack([answer.logits, *others])
        weights = torch.full(logits.shape[:2], 1 / len(logits), device=logits.device)
        return Answer(mixture(logits, weights, self.temperature, self.task), answer.features)

    def identity(self) -> str:
        """Return one string for all that the answers depend on, as far as it is known before training."""
        return f"peers:{self.temperature!r}:{self.teacher.identity()}"

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless the teacher can answer for ``data``."""
        self.teacher.check(data)


def connect_peers(distillers: Sequence[Distiller], signals: Sequence[MutualSignal]) -> None:
    """Make each student a peer of all others; ``signals`` [K] are the students' signals, in the same order."""
    for own, signal in enumerate(signals):
        signal.peers = [other for index, other in enumerate(distillers) if index != own]


def advance_mutual(distillers: Sequence[Distiller], to_step: int) -> None:
    """Train all students in turn, one step each, up to optimiser step ``to_step``.

    Raises:
        TrainingError: a loss became NaN or infinite.
    """
    for step in range(min(entry.step for entry in distillers), to_step):
        for entry in distillers:
            entry.advance(step + 1)
