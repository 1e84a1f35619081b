"""What a teacher tells a student: the one interface that the training loop knows."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from nas_distill.common.device import memory_format, place
from nas_distill.common.errors import TeacherError
from nas_distill.data import Dataset, SplitName
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

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless it can answer for ``data``; called once, before anything trains."""
        ...


class LiveSignal:
    """Runs the teacher on each batch beside the student, on the batch's device; what the store is checked against.

    Raises:
        TeacherError: the teacher is not frozen, now or when it is asked.
    """

    def __init__(self, teacher: Teacher, device: str | torch.device = "cpu") -> None:
        teacher.assert_frozen()
        self.teacher = teacher
        self.num_classes = teacher.num_classes
        self._device = torch.device(device)
        # In the quicker layout: a store asks it hundreds of thousands of times.
        place(teacher.module, self._device, memory_format(teacher.module))

    def logits(self, split: SplitName, index: Tensor, view: int | None, x: Tensor) -> Tensor:
        """Return the teacher's logits, computed now."""
        self.teacher.assert_frozen()
        if x.device != self._device:
            self._device = x.device
            self.teacher.module.to(x.device)
        with torch.no_grad():
            return self.teacher.module(x).float()

    def identity(self) -> str:
        """Return the fingerprint of the teacher."""
        return f"teacher:{self.teacher.fingerprint}"

    def check(self, data: Dataset) -> None:
        """Raise TeacherError unless the data's classes are as many as the teacher's."""
        check_classes(self.num_classes, data)


def check_classes(num_classes: int, data: Dataset) -> None:
    """Raise TeacherError unless ``data`` has ``num_classes`` classes."""
    if num_classes != data.num_classes:
        raise TeacherError(
            f"The teacher tells {num_classes} classes apart, but data '{data.name}' has {data.num_classes}."
        )
