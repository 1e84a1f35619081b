"""A frozen teacher: any torch module, in eval mode and without gradients, for as long as it teaches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.common.device import device_of
from nas_distill.common.digests import module_digest
from nas_distill.common.errors import TeacherError, first_line
from nas_distill.data import Dataset
from nas_distill.tasks import find_task


@dataclass(frozen=True)
class Teacher:
    """A frozen module that maps (B, ...) samples to (B, num_classes) logits or values. Make one with ``freeze``."""

    module: nn.Module
    num_classes: int
    name: str = "teacher"

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of the module's structure as it prints, and of its weights and buffers with names and types."""
        return module_digest(self.module)

    def assert_frozen(self) -> None:
        """Raise TeacherError if somebody set the teacher to train mode or let gradients into it."""
        if any(part.training for part in self.module.modules()):
            raise TeacherError(f"Teacher '{self.name}' is in train mode, so its answers would change as it is asked.")
        if any(weight.requires_grad for weight in self.module.parameters()):
            raise TeacherError(f"Teacher '{self.name}' has weights that take gradients; a teacher is frozen.")

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "num_classes": self.num_classes, "name": self.name}


def freeze(module: nn.Module, data: Dataset, name: str = "teacher") -> Teacher:
    """Freeze a module as the teacher of a task.

    The module itself is set to eval mode and its weights take no gradients from here on.

    Raises:
        TeacherError: it does not run on the data's samples, or does not return one row of finite logits for each, or
            their number differs from the data's classes.
    """
    if not isinstance(module, nn.Module):
        raise TeacherError(f"The teacher is a {type(module).__name__}; it must be a torch.nn.Module.")
    module.eval()
    samples = min(2, len(data.val))
    x, _ = data.batch("val", torch.arange(samples))
    device = device_of(module)
    try:
        with torch.no_grad():
            logits = module(x.to(device))
        # Only now: torch's lazy modules have weights since they ran.
        module.requires_grad_(False)
    except Exception as error:
        raise TeacherError(
            f"Teacher '{name}' fails on a batch of shape {tuple(x.shape)} of data '{data.name}' ({first_line(error)})."
        ) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != samples:
        shown = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TeacherError(f"Teacher '{name}' returns {shown} for a batch of {samples}; it must return (B, classes).")
    if logits.shape[1] != data.num_classes:
        what = find_task(data.task).outputs
        tells = f"tells {logits.shape[1]} classes apart" if what == "classes" else f"tells {logits.shape[1]} {what}"
        raise TeacherError(
            f"Teacher '{name}' {tells}, but data '{data.name}' has {data.num_classes}; they must be the same {what} in "
            "the same order."
        )
    if not torch.isfinite(logits).all():
        raise TeacherError(f"Teacher '{name}' returns NaN or infinity on data '{data.name}'; are its weights whole?")
    teacher = Teacher(module, data.num_classes, name)
    teacher.assert_frozen()
    return teacher
