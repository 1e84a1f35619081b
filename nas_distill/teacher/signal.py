"""What a teacher tells a student: the one interface that the training loop knows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from nas_distill.common.device import memory_format, place
from nas_distill.common.errors import TeacherError
from nas_distill.common.layers import Tap
from nas_distill.data import Dataset, SplitName
from nas_distill.tasks import find_task
from nas_distill.teacher.answer import Answer, Feature, reduce_feature
from nas_distill.teacher.teacher import Teacher


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
