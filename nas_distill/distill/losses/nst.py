"""Neuron selectivity transfer: each channel is a sample of where neurons are active."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.distill.features import exact, pooled_to, smaller, unit
from nas_distill.distill.losses.checks import check_kinds, check_places, check_tokens
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss


def squared_mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared maximum mean discrepancy of channels under the kernel (a . b)^2, averaged over the batch.

    Channels are brought to norm 1 over places first. Equal channels, in any order, give the minimum, 0.

    Args:
        student: (B, C, places).
        teacher: (B, D, places).
    """
    student, teacher = unit(student, 2), unit(teacher, 2)
    return _kernel(teacher, teacher) + _kernel(student, student) - 2 * _kernel(student, teacher)


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.transpose(1, 2)).square().mean()


@loss("nst", weight=50.0, layers="stages")
class NeuronSelectivity(Loss):
    """Neuron selectivity: discrepancy of channels' activity, polynomial kernel (Huang, Wang, 2017, arXiv:1707.01219).

    The squared maximum mean discrepancy, averaged over the batch and summed over layers. Numbers of channels are free;
    of two resolutions the larger map is averaged to the smaller; of tokens (B, N, D) each of the D features counts as a
    channel over N places. Memory O(C^2) a sample. It learns nothing itself.

    Raises:
        TrainingError: a layer is a vector, the two sides have different numbers of tokens, or no layer has two places.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        check_kinds("nst", shapes, [3, 2], "take 'pkt' or 'rkd' for vectors")
        check_tokens("nst", shapes, "take 'sp' or 'pkt', which compare samples")
        check_places("nst", shapes, "name other layers, or take 'sp' or 'pkt', which compare samples")

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
