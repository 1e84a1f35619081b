"""DistilBERT: the direction of the last hidden state, beside the teacher's classes and the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_distill.common.errors import TrainingError
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.distill.losses.regression import one_minus_cosine
from nas_distill.distill.losses.transformers.shapes import check_pairs
from nas_distill.distill.projectors import TokenProjector


@loss("cosine_hidden", layers="last")
class CosineHidden(Loss):
    """One minus the cosine between the last tokens of both networks (DistilBERT; Sanh et al., 2019, arXiv:1910.01108).

    Averaged over tokens and batch; several layers, if named, are added. Where widths differ, a learnt linear layer
    brings the student's tokens to the teacher's width; where they agree nothing is learnt, and tokens that are the
    teacher's up to a positive factor give the minimum, 0. Padding counts as other tokens do.

    The paper's triple loss is this term (weight 1) beside ``kd`` (weight 5, temperature 2) and ``cross_entropy``
    (weight 2; on the labels, where a language model would have masked words).

    Raises:
        TrainingError: there is no pair, a layer is not tokens, or the numbers of tokens differ.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        check_pairs("cosine_hidden", shapes)
        for shape in (shape for pair in shapes.features for shape in pair):
            if len(shape) != 2:
                raise TrainingError(
                    f"The loss 'cosine_hidden' compares tokens (N, D), not layers of shape {tuple(shape)}; name "
                    "blocks of tokens under 'layers', or take 'cosine_logits' or a loss on feature maps."
                )
        self.projectors = nn.ModuleList(TokenProjector(ours, theirs) for ours, theirs in shapes.features)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers; features are (B, N, D)."""
        parts = zip(self.projectors, student.features, teacher.features, strict=True)
        means = [one_minus_cosine(projector(ours), theirs).mean() for projector, ours, theirs in parts]
        return torch.stack(means).sum()
