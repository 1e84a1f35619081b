"""Mutual learning: students that teach each other while they train (Zhang et al., 2018, arXiv:1706.00384)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas_distill.data import Dataset, SplitName
from nas_distill.distill.distiller import Distiller
from nas_distill.teacher.signal import Answer, TeacherSignal, mixture


class MutualSignal:
    """What a student's peers say, and the teacher with them; a TeacherSignal for ``Distiller``.

    Deep mutual learning (Zhang et al., 2018, arXiv:1706.00384): each student learns from the mean of the others'
    divergences. Here peers answer with their averaged weights, which are steadier than those of the last step, and the
    teacher counts as one peer more. Inner layers are the teacher's.

    ``peers`` is filled once all students exist; until then the teacher answers alone.
    """

    def __init__(self, teacher: TeacherSignal, temperature: float, task: str = "classification") -> None:
        self.teacher = teacher
        self.temperature = temperature
        self.task = task
        self.peers: list[Distiller] = []
        self.num_classes = teacher.num_classes
        self.features = teacher.features

    def answer(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Answer:
        """Return the mixture of all that teach, and the teacher's features."""
        answer = self.teacher.answer(split, index, view, x)
        with torch.no_grad():
            others = [peer.averaged.module(x).float() for peer in self.peers]
        logits = torch.stack([answer.logits, *others])
        weights = torch.full(logits.shape[:2], 1 / len(logits), device=logits.device)
        return Answer(mixture(logits, weights, self.temperature, self.task), answer.features)

    def identity(self) -> str:
        """Return what the answers depend on, as far as it is known before anything trains."""
        return f"peers:{self.temperature!r}:{self.teacher.identity()}"

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless the teacher can answer for ``data``."""
        self.teacher.check(data)


def connect_peers(distillers: Sequence[Distiller], signals: Sequence[MutualSignal]) -> None:
    """Make every student the peer of every other; ``signals`` [K] are theirs, in their order."""
    for place, signal in enumerate(signals):
        signal.peers = [other for at, other in enumerate(distillers) if at != place]


def advance_mutual(distillers: Sequence[Distiller], to_step: int) -> None:
    """Train all, step by step in turn, up to optimiser step ``to_step``.

    Raises:
        TrainingError: a loss became NaN or infinite.
    """
    for step in range(min(entry.step for entry in distillers), to_step):
        for entry in distillers:
            entry.advance(step + 1)
