"""Relational knowledge distillation: distances between samples, and angles of three."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nas_distill.distill.losses.features.tensors import exact, scaled, unit
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss
from nas_distill.teacher.answer import pooled

Weight = Annotated[float, Field(ge=0)]


def distances(vectors: Tensor) -> Tensor:
    """Return (B, B) Euclidean distances of vectors (B, D), over their mean between different samples."""
    found = torch.linalg.vector_norm(scaled(vectors)[:, None] - scaled(vectors)[None], dim=2)
    mean = found.sum() / max(1, len(vectors) * (len(vectors) - 1))
    result: Tensor = found / mean.clamp_min(1e-12)
    return result


def angles(vectors: Tensor) -> Tensor:
    """Return (B, B, B) cosines of the angles at sample i (first) between samples j and k; 0 where two are one."""
    ways = unit(scaled(vectors)[None] - scaled(vectors)[:, None], 2)
    return ways @ ways.transpose(1, 2)


@loss("rkd", layers="vector", reduction="pooled", parts=("distance", "angle"))
def rkd(student: Outputs, teacher: Outputs, batch: Batch, *, distance: Weight = 25.0, angle: Weight = 50.0) -> Tensor:
    """Relational: distances and angles between the samples of a batch (Park et al., 2019, arXiv:1904.05068).

    ``distance`` times the smooth L1 loss of pairs' distances (each side's over their mean; averaged over B^2) and
    ``angle`` times that of triples' cosines (averaged over B^3). Vectors are pooled features, whose widths are free.
    Angles take memory O(B^3), 2 million numbers a tensor for a batch of 128, and differences O(B^2 D).
    """
    total = torch.zeros((), device=batch.labels.device)
    for ours, theirs in zip(student.features, teacher.features, strict=True):
        ours, theirs = pooled(exact(ours)), pooled(exact(theirs))
        if distance:
            total = total + distance * functional.smooth_l1_loss(distances(ours), distances(theirs))
        if angle:
            total = total + angle * functional.smooth_l1_loss(angles(ours), angles(theirs))
    return total
