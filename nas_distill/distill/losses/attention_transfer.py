"""Attention transfer: spatial activation maps of convolutional layers."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.distill.features import exact, pooled_to, scaled, smaller, unit
from nas_distill.distill.losses.checks import check_kinds, check_positions
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.teacher.signal import attention_map


def attention_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean square difference of two attention maps, each of norm 1 in each sample; a scalar.

    The mean is over samples and positions; the default weight 1000 assumes that. The larger map is pooled to the
    smaller size. Attention that is equal up to a positive factor gives the minimum, 0.

    Args:
        student: (B, C, H, W) features; their attention is the mean square over channels.
        teacher: (B, H', W') attention.
    """
    # The loss does not depend on the scale of attention, and squares of scaled features stay finite.
    student = attention_map(scaled(exact(student), (1, 2, 3)))
    teacher = exact(teacher)
    size = smaller(student.shape, teacher.shape)
    ours = unit(pooled_to(student, size), (1, 2))
    theirs = unit(pooled_to(teacher, size), (1, 2), floor=1e-12)
    return (ours - theirs).square().mean()


@loss("at", weight=1000.0, layers="stages", reduction="attention")
class AttentionTransfer(Loss):
    """Attention transfer with p = 2, summed over layers (Zagoruyko and Komodakis, 2017, arXiv:1612.03928).

    Attention is the mean square over channels, so widths may differ. Of two resolutions, the larger attention map is
    pooled to the smaller. The loss has no learnable parts.

    Raises:
        TrainingError: a layer is not a feature map, or none has at least two positions.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        check_kinds("at", shapes, [3], "take 'sp' or 'pkt' for other layers, or name feature maps")
        check_positions("at", shapes, "name other layers, or take 'sp' or 'pkt', which compare samples")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers of the mean square difference."""
        pairs = zip(student.features, teacher.features, strict=True)
        return torch.stack([attention_difference(ours, theirs) for ours, theirs in pairs]).sum()
