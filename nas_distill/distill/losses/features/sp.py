"""Similarity-preserving distillation: samples that are alike to the teacher are to be alike to the student."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.distill.losses.features.tensors import exact, scaled, unit
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss


def similarities(features: Tensor) -> Tensor:
    """Return (B, B) inner products of the samples of a batch, each row of norm 1.

    All but the first dimension of ``features`` is flattened: channels and places, or tokens and width.
    """
    flat = scaled(exact(features)).flatten(1)
    return unit(flat @ flat.T, floor=1e-12)


@loss("sp", weight=3000.0, layers="last")
def sp(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Similarity-preserving: squared difference of row-normalised Gram matrices (Tung, Mori, 2019, arXiv:1907.09682).

    The Gram matrices are of the batch: samples' inner products, a sample being its map (C, H, W) or tokens (N, D)
    flattened, so widths and resolutions are free and nothing is projected. Divided by B^2; several layers are summed.
    """
    differences = [
        (similarities(ours) - similarities(theirs)).square().mean()
        for ours, theirs in zip(student.features, teacher.features, strict=True)
    ]
    return torch.stack(differences).sum()
