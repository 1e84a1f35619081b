"""Rotation prediction: an auxiliary task that predicts the quarter turns of rotated images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.distill.features import pooled_shape
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.teacher.signal import pooled
from nas_distill.utils.errors import TrainingError

TURNS = 4


@loss("rotation", layers="vector", own=True, taught=False)
class Rotation(Loss):
    """Rotation: prediction of the number of quarter turns of an image (RotNet; Gidaris et al., 2018, arXiv:1803.07728).

    The batch passes the student a second time, with each image rotated by a random number of quarter turns drawn for
    each step. A linear head on the pooled features predicts the number; the loss is the cross-entropy in nats, averaged
    over the batch (log 4 for a random guess). Beside a distillation it is an auxiliary task as in SSKD (Xu et al.,
    2020, arXiv:2006.07114). The head is not part of the student, and the student's batch norm statistics are of upright
    images only (see ``Outputs.again``).

    Args:
        shapes: shapes of the student's layer and of a sample.
        every: rotate each image by all four turns, as in the paper, which makes the second pass four times as large.

    Raises:
        TrainingError: samples are not square images, or the number of layers is not one.
    """

    def __init__(self, shapes: Shapes, *, every: bool = False) -> None:
        super().__init__(shapes)
        if len(shapes.inputs) != 3 or shapes.inputs[1] != shapes.inputs[2]:
            raise TrainingError(
                f"The loss 'rotation' needs square images (C, H, H), but samples have shape {shapes.inputs}; use "
                "'masked_reconstruction' or remove the term."
            )
        if len(shapes.features) != 1:
            raise TrainingError(f"The loss 'rotation' reads one layer of the student, but got {len(shapes.features)}.")
        self.every = every
        self.head = nn.Linear(*pooled_shape(shapes.features[0][0]), TURNS)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """Return the head's cross-entropy."""
        assert batch.x is not None
        count, device = len(batch.x), batch.x.device
        if self.every:
            turns = torch.arange(TURNS, device=device).repeat_interleave(count)
            inputs = rotated(batch.x.repeat(TURNS, 1, 1, 1), turns)
        else:
            turns = torch.randint(TURNS, (count,), device=device)
            inputs = rotated(batch.x, turns)
        feature = pooled(student.again(inputs).features[0])
        return functional.cross_entropy(self.head(feature.to(self.head.weight.dtype)), turns)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Return images (B, C, H, H), each rotated anticlockwise by its number ``turns`` (B,) of quarter turns."""
    result = torch.empty_like(x)
    for number in range(TURNS):
        chosen = turns == number
        result[chosen] = torch.rot90(x[chosen], number, (2, 3))
    return result
