"""Relational losses between the samples of a batch: RKD, similarity preservation and PKT."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nas_distill.distill.features import exact, scaled, unit
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss
from nas_distill.teacher.signal import pooled

Weight = Annotated[float, Field(ge=0)]


def distances(vectors: Tensor) -> Tensor:
    """Return (B, B) Euclidean distances of vectors (B, D), divided by the mean distance of different samples."""
    found = torch.linalg.vector_norm(scaled(vectors)[:, None] - scaled(vectors)[None], dim=2)
    mean = found.sum() / max(1, len(vectors) * (len(vectors) - 1))
    result: Tensor = found / mean.clamp_min(1e-12)
    return result


def angles(vectors: Tensor) -> Tensor:
    """Return (B, B, B) cosines of the angles at sample i (first) between samples j and k; 0 if two are the same."""
    ways = unit(scaled(vectors)[None] - scaled(vectors)[:, None], 2)
    return ways @ ways.transpose(1, 2)


@loss("rkd", layers="vector", reduction="pooled", parts=("distance", "angle"))
def rkd(student: Outputs, teacher: Outputs, batch: Batch, *, distance: Weight = 25.0, angle: Weight = 50.0) -> Tensor:
    """Relational: distances and angles between the samples of a batch (Park et al., 2019, arXiv:1904.05068).

    ``distance`` times the smooth L1 loss of pairwise distances (divided by their mean on each side; averaged over B^2)
    plus ``angle`` times that of the cosines of triples (averaged over B^3). Vectors are pooled features; widths may
    differ. Memory is O(B^3) for angles, 2 million numbers per tensor for a batch of 128, and O(B^2 D) for differences.
    """
    total = torch.zeros((), device=batch.labels.device)
    for ours, theirs in zip(student.features, teacher.features, strict=True):
        ours, theirs = pooled(exact(ours)), pooled(exact(theirs))
        if distance:
            total = total + distance * functional.smooth_l1_loss(distances(ours), distances(theirs))
        if angle:
            total = total + angle * functional.smooth_l1_loss(angles(ours), angles(theirs))
    return total


def similarities(features: Tensor) -> Tensor:
    """Return (B, B) inner products of the samples of a batch, with each row scaled to norm 1.

    All dimensions of ``features`` except the first are flattened: channels and positions, or tokens and width.
    """
    flat = scaled(exact(features)).flatten(1)
    return unit(flat @ flat.T, floor=1e-12)


@loss("sp", weight=3000.0, layers="last")
def sp(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Similarity-preserving: squared difference of row-normalised Gram matrices (Tung, Mori, 2019, arXiv:1907.09682).

    The Gram matrices contain the inner products of the samples of the batch, whose maps (C, H, W) or tokens (N, D) are
    flattened. Widths and resolutions may differ, without projection. Divided by B^2; several layers are summed.
    """
    differences = [
        (similarities(ours) - similarities(theirs)).square().mean()
        for ours, theirs in zip(student.features, teacher.features, strict=True)
    ]
    return torch.stack(differences).sum()


_LEAST = 1e-7


def neighbours(vectors: Tensor) -> Tensor:
    """Return (B, B) probabilities, rows summing to 1: cosines of vectors (B, D), mapped to [0, 1] and normalised."""
    vectors = unit(vectors)
    kernel = (vectors @ vectors.T + 1) / 2
    return kernel / kernel.sum(dim=1, keepdim=True)


@loss("pkt", weight=30000.0, layers="vector", reduction="pooled")
def pkt(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Probabilistic: divergence of neighbourhoods in the batch (Passalis, Tefas, 2018, arXiv:1803.10837).

    KL(teacher || student) of cosine similarities, mapped to [0, 1] and normalised by row, averaged over B^2 elements.
    Vectors are pooled features; widths may differ. Several layers are summed.
    """
    divergences = []
    for ours, theirs in zip(student.features, teacher.features, strict=True):
        q, p = neighbours(pooled(exact(ours))), neighbours(pooled(exact(theirs)))
        divergences.append((p * (p.clamp_min(_LEAST) / q.clamp_min(_LEAST)).log()).mean())
    return torch.stack(divergences).sum()
