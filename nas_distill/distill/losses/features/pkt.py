"""Probabilistic knowledge transfer: with what probability a sample chooses each other as its neighbour."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_distill.distill.losses.features.tensors import exact, unit
from nas_distill.distill.losses.loss import Batch, Outputs
from nas_distill.distill.losses.registry import loss
from nas_distill.teacher.answer import pooled

_LEAST = 1e-7


def neighbours(vectors: Tensor) -> Tensor:
    """Return (B, B) probabilities, each row's sum 1: cosines of vectors (B, D), brought to [0, 1], over their sum."""
    vectors = unit(vectors)
    kernel = (vectors @ vectors.T + 1) / 2
    return kernel / kernel.sum(dim=1, keepdim=True)


@loss("pkt", weight=30000.0, layers="vector", reduction="pooled")
def pkt(student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
    """Probabilistic: divergence of neighbourhoods in the batch (Passalis, Tefas, 2018, arXiv:1803.10837).

    KL(teacher || student) of cosine similarities that are brought to [0, 1] and normalised row by row, averaged over
    B^2 elements. Vectors are pooled features, whose widths are free; several layers are summed.
    """
    divergences = []
    for ours, theirs in zip(student.features, teacher.features, strict=True):
        q, p = neighbours(pooled(exact(ours))), neighbours(pooled(exact(theirs)))
        divergences.append((p * (p.clamp_min(_LEAST) / q.clamp_min(_LEAST)).log()).mean())
    return torch.stack(divergences).sum()
