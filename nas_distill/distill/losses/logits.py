"""What the losses on logits share: tempered log-probabilities without overflow, and which logits they refuse."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from nas_distill.common.errors import TrainingError
from nas_distill.distill.losses.features.tensors import exact
from nas_distill.distill.losses.loss import Outputs


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Return ``logits / temperature``, half precision in float32, since what is made of them does not fit in it."""
    return exact(logits) / temperature


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return the log of ``softmax(logits / temperature)`` over classes, (B, classes); finite for finite logits."""
    return functional.log_softmax(tempered(logits, temperature), dim=1)


def check_logits(name: str, student: Outputs, teacher: Outputs, *, classes: int = 2) -> None:
    """Refuse logits that the loss ``name`` cannot compare.

    Raises:
        TrainingError: they are not (B, classes) of one shape on both sides, or of fewer than ``classes`` classes.
    """
    ours, theirs = tuple(student.logits.shape), tuple(teacher.logits.shape)
    if ours != theirs or len(ours) != 2:
        raise TrainingError(
            f"The loss '{name}' compares logits (B, classes) one by one, but the student gives {ours} and the teacher "
            f"{theirs}; give both the same classes."
        )
    if ours[1] < classes:
        raise TrainingError(
            f"The loss '{name}' compares classes with each other and needs {classes} or more, but the logits are of "
            f"{ours[1]}; take 'bce_kd' or 'mse'."
        )
