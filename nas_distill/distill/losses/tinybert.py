"""TinyBERT: layer-wise losses on attention scores and hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.distill.features import exact
from nas_distill.distill.losses.checks import check_attention, check_heads, check_pairs
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.distill.projectors import TokenProjector
from nas_distill.utils.layers import scores


@loss("tinybert_attention", layers="attention")
class TinyBertAttention(Loss):
    """Mean squared difference of attention scores before the softmax (TinyBERT; Jiao et al., 2019, arXiv:1909.10351).

    The mean is over batch, heads, queries and keys; layers are summed. Head i learns from head i, so both networks need
    the same number of heads; widths may differ. Masks are not applied, so scores of padding count like others. Equal
    scores give the minimum, 0. The loss has no learnable parts.

    Raises:
        TrainingError: the numbers of heads or tokens differ, or a layer is not an attention.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        check_attention("tinybert_attention", shapes)
        check_heads("tinybert_attention", shapes)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers; features are (3, B, heads, N, d)."""
        pairs = zip(student.features, teacher.features, strict=True)
        return torch.stack([functional.mse_loss(_scores(ours), _scores(theirs)) for ours, theirs in pairs]).sum()


@loss("tinybert_hidden", layers="tokens")
class TinyBertHidden(Loss):
    """Mean squared difference of projected tokens and the teacher's (TinyBERT; Jiao et al., 2019, arXiv:1909.10351).

    The mean is over batch, tokens and width; layers are summed. A learned linear layer maps the student's tokens to the
    teacher's width, also if the widths are equal; layers with the same two widths share it. Projected tokens equal to
    the teacher's give the minimum, 0. The paper's loss on embeddings is a separate term of this loss with the embedding
    layers named under ``layers`` (and so with a separate projector).

    Raises:
        TrainingError: there is no pair, a layer is not tokens, or the numbers of tokens differ.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        check_pairs("tinybert_hidden", shapes)
        self.projectors = nn.ModuleDict()
        for ours, theirs in shapes.features:
            projector = TokenProjector(ours, theirs, always=True)
            if _widths(ours[1], theirs[1]) not in self.projectors:
                self.projectors[_widths(ours[1], theirs[1])] = projector

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers; features are (B, N, D)."""
        pairs = zip(student.features, teacher.features, strict=True)
        return torch.stack([self._difference(ours, theirs) for ours, theirs in pairs]).sum()

    def _difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        projected = self.projectors[_widths(student.shape[-1], teacher.shape[-1])](student)
        return functional.mse_loss(projected, teacher.to(projected.dtype))


def _scores(feature: Tensor) -> Tensor:
    queries, keys, _ = exact(feature).unbind(0)
    return scores(queries, keys)


def _widths(student: int, teacher: int) -> str:
    return f"{student}_to_{teacher}"
