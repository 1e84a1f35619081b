"""Neuron selectivity transfer (NST): distributions of the channels' spatial activity."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.distill.features import exact, pooled_to, smaller, unit
from nas_distill.distill.losses.checks import check_kinds, check_positions, check_tokens
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss


def squared_mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of channels under the kernel (a . b)^2, averaged over the batch.

    Channels are first scaled to norm 1 over positions. Equal channels, in any order, give the minimum, 0.

    Args:
        student: (B, C, positions).
        teacher: (B, D, positions).
    """
    student, teacher = unit(student, 2), unit(teacher, 2)
    return _kernel(teacher, teacher) + _kernel(student, student) - 2 * _kernel(student, teacher)


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.transpose(1, 2)).square().mean()


@loss("nst", weight=50.0, layers="stages")
class NeuronSelectivity(Loss):
    """Neuron selectivity: discrepancy of channels' activity, polynomial kernel (Huang, Wang, 2017, arXiv:1707.01219).

    The loss is the squared maximum mean discrepancy, averaged over the batch and summed over layers. Numbers of
    channels may differ. Of two resolutions, the larger map is pooled to the smaller. For tokens (B, N, D), each of the
    D features is a channel over N positions. Memory is O(C^2) per sample. The loss has no learnable parts.

    Raises:
        TrainingError: a layer is a vector, the numbers of tokens differ, or no layer has at least two positions.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        check_kinds("nst", shapes, [3, 2], "take 'pkt' or 'rkd' for vectors")
        check_tokens("nst", shapes, "take 'sp' or 'pkt', which compare samples")
        check_positions("nst", shapes, "name other layers, or take 'sp' or 'pkt', which compare samples")

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers of the discrepancy."""
        found = []
        for ours, theirs in zip(student.features, teacher.features, strict=True):
            ours, theirs = exact(ours), exact(theirs)
            if ours.dim() == 4:
                size = smaller(ours.shape, theirs.shape)
                found.append(squared_mmd(pooled_to(ours, size).flatten(2), pooled_to(theirs, size).flatten(2)))
            else:
                found.append(squared_mmd(ours.transpose(1, 2), theirs.transpose(1, 2)))
        return torch.stack(found).sum()
