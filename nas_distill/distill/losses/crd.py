"""Contrastive representation distillation (CRD)."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.distill.features import exact, pooled_shape, unit
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.teacher.signal import pooled
from nas_distill.utils.errors import TrainingError

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


@loss("crd", weight=0.8, layers="vector", reduction="pooled")
class Contrastive(Loss):
    """Contrastive: noise-contrastive estimation against banks of all samples (Tian et al., 2020, arXiv:1910.10699).

    The pooled features of both sides are embedded by a linear layer and scaled to norm 1. The student's embedding of a
    sample must be distinguished from ``negatives`` other samples by the teacher's stored embedding, and the teacher's
    by the student's; the loss is summed over negatives and sides and averaged over the batch. Negatives are drawn
    uniformly from all other samples for each sample and step, including those of its class. The two banks (samples x
    dim) are buffers, so they are part of every checkpoint; in eval mode they are not updated. The scores of all samples
    are computed before the selection: memory O(B x samples).

    Args:
        shapes: one pair of layers, and the number of samples.
        dim: width of the embeddings.
        negatives: per sample, with replacement; None: 16384, or the number of other samples if lower.
        tau: temperature of the cosines.
        momentum: weight of the old value in an updated row of a bank.

    Raises:
        TrainingError: the number of pairs is not one, or the data have a single sample.
    """

    banks: Tensor
    log_normal: Tensor
    normal_known: Tensor

    def __init__(
        self,
        shapes: Shapes,
        *,
        dim: Count = 128,
        negatives: Count | None = None,
        tau: Positive = 0.07,
        momentum: Share = 0.5,
    ) -> None:
        super().__init__(shapes)
        if len(shapes.features) != 1:
            raise TrainingError(
                f"The loss 'crd' compares one pair of layers, but got {len(shapes.features)}; name one pair."
            )
        if shapes.samples < 2:
            raise TrainingError("The loss 'crd' contrasts samples and needs at least 2; the training split has fewer.")
        self.tau, self.momentum = tau, momentum
        self.negatives = min(16384, shapes.samples - 1) if negatives is None else negatives
        student, teacher = shapes.features[0]
        self.embeddings = nn.ModuleList(nn.Linear(*pooled_shape(shape), dim) for shape in (student, teacher))
        # Rows have an expected norm of 1; the student's embeddings come first.
        self.register_buffer("banks", (torch.rand(2, shapes.samples, dim) * 2 - 1) * math.sqrt(3 / dim))
        self.register_buffer("log_normal", torch.zeros(2))
        self.register_buffer("normal_known", torch.zeros((), dtype=torch.bool))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum of the losses of both sides; in train mode, store the embeddings of the batch."""
        embedded = [
            unit(layer(pooled(exact(outputs.features[0])).to(self.banks.dtype)))
            for layer, outputs in zip(self.embeddings, (student, teacher), strict=True)
        ]
        index = batch.index.to(self.banks.device)
        rows = self._rows(index)
        # Each side is compared with the bank of the other.
        scores = [(one @ bank.T / self.tau).gather(1, rows) for one, bank in zip(embedded, self.banks.flip(0))]
        if self.training:
            self._update_banks(index, scores, embedded)
        return nce_loss(scores[0] - self.log_normal[0], self.shapes.samples) + nce_loss(
            scores[1] - self.log_normal[1], self.shapes.samples
        )

    def _rows(self, index: Tensor) -> Tensor:
        """Return (B, 1 + negatives) rows of the banks: first the sample's own, then others."""
        drawn = torch.randint(self.shapes.samples - 1, (len(index), self.negatives), device=index.device)
        return torch.cat([index[:, None], drawn + (drawn >= index[:, None])], dim=1)

    @torch.no_grad()
    def _update_banks(self, index: Tensor, scores: list[Tensor], embedded: list[Tensor]) -> None:
        if not self.normal_known:
            # The normaliser is a constant, estimated once as the mean of exp(score) times the number of samples.
            for side, score in enumerate(scores):
                mean = torch.logsumexp(score.flatten(), 0) - math.log(score.numel())
                self.log_normal[side] = mean + math.log(self.shapes.samples)
            self.normal_known.fill_(True)
        # A new tensor, because the backward pass still needs the one that the scores were computed from.
        banks = self.banks.clone()
        for side, one in enumerate(embedded):
            banks[side, index] = functional.normalize(self.momentum * banks[side, index] + (1 - self.momentum) * one)
        self.banks = banks


def nce_loss(scores: Tensor, samples: int) -> Tensor:
    """Return the loss of noise-contrastive estimation with uniform noise over ``samples``, a scalar.

    With P = exp(score) and c = negatives / samples, it is the sum of -log(P / (P + c)) for the sample's own score
    (first column) and -log(c / (P + c)) for the others, averaged over the batch.

    Args:
        scores: (B, 1 + negatives) logarithms of normalised probabilities.
        samples: number of samples that negatives are drawn from.
    """
    over_noise = scores - math.log((scores.shape[1] - 1) / samples)
    own, others = over_noise[:, 0], over_noise[:, 1:]
    return (functional.softplus(-own) + functional.softplus(others).sum(dim=1)).mean()
