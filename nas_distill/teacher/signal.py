"""What a teacher tells a student: the one interface that the training loop knows."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nas_distill.data import SplitName
from nas_distill.teacher.teacher import Teacher


class TeacherSignal(Protocol):
    """Gives the teacher's logits for a batch; the loop does not know whether they are computed or read."""

    num_classes: int

    def logits(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Tensor:
        """Return the teacher's logits (B, classes) float32 on ``x``'s device.

        Args:
            split: which split the batch is of.
            index: (B,) int64, the samples' places in it.
            view: the view the student sees, or None for the samples as they are.
            x: (B, ...) the batch as the student sees it.
        """
        ...

    def identity(self) -> str:
        """Return what the logits depend on, as one string: a training that went on with another would be no resume."""
        ...


class LiveSignal:
    """Runs the teacher on each batch beside the student; what the store is checked against."""

    def __init__(self, teacher: Teacher, device: str | torch.device = "cpu") -> None:
        self.teacher = teacher
        self.num_classes = teacher.num_classes
        self._module = teacher.module.to(device)

    def logits(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Tensor:
        """Return the teacher's logits, computed now."""
        with torch.no_grad():
            return self._module(x).float()

    def identity(self) -> str:
        """Return the fingerprint of the teacher's weights."""
        return f"teacher:{self.teacher.fingerprint}"
