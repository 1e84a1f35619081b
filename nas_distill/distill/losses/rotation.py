"""Rotation: an auxiliary task that predicts by which quarter turn an image was turned."""

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
    """Rotation: which of four quarter turns an image was turned by (RotNet; Gidaris et al., 2018, arXiv:1803.07728).

    The student sees the batch once more, each image turned by a number of quarter turns drawn anew for each step, and a
    linear head on its pooled features tells the number: cross-entropy in nats, averaged over the batch; knowing nothing
    gives log 4. Beside a distillation it is a task of SSKD's kind (Xu et al., 2020, arXiv:2006.07114). The head is no
    part of the student, and what the student's batch norms keep is of upright images alone (see ``Outputs.again``).

    Args:
        shapes: of the student's layer, and of a sample.
        every: turns each image by all four, as the paper, for a second pass four times as large.

    Raises:
        TrainingError: samples are no square images, or there is not one layer.
    """

    def __init__(self, shapes: Shapes, *, every: bool = False) -> None:
        super().__init__(shapes)
        if len(shapes.inputs) != 3 or shapes.inputs[1] != shapes.inputs[2]:
            raise TrainingError(
                f"The loss 'rotation' turns square images (C, H, H), and a sample has shape {shapes.inputs}; take "
                "'masked_reconstruction' or leave it out."
            )
        if len(shapes.features) != 1:
            raise TrainingError(f"The loss 'rotation' reads one layer of the student, and got {len(shapes.features)}.")
        self.every = every
        self.head = nn.Linear(*pooled_shape(shapes.features[0][0]), TURNS)

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """Return the head's cross-entropy."""
        assert batch.x is not None
        count, device = len(batch.x), batch.x.device
        if self.every:
            turns = torch.arange(TURNS, device=device).repeat_interleave(count)
            seen = rotated(batch.x.repeat(TURNS, 1, 1, 1), turns)
        else:
            turns = torch.randint(TURNS, (count,), device=device)
            seen = rotated(batch.x, turns)
        feature = pooled(student.again(seen).features[0])
        return functional.cross_entropy(self.head(feature.to(self.head.weight.dtype)), turns)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Return images (B, C, H, H), each turned anticlockwise by its own number (B,) of quarter turns."""
    found = torch.empty_like(x)
    for number in range(TURNS):
        places = turns == number
        found[places] = torch.rot90(x[places], number, (2, 3))
    return found
