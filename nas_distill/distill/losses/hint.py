"""Regression of teacher features: FitNets hints, and cosine distance of vectors and hidden states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.distill.features import exact, pooled_shape, unit
from nas_distill.distill.losses.checks import check_kinds, check_pairs, check_tokens
from nas_distill.distill.losses.labels import one_minus_cosine
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.distill.projectors import Projector, TokenProjector, VectorProjector, make_projector
from nas_distill.teacher.signal import pooled
from nas_distill.utils.errors import TrainingError


@loss("hint", weight=100.0, layers="last")
class Hint(Loss):
    """FitNets' hints: mean square error of the regressed features (Romero et al., 2015, arXiv:1412.6550).

    The regressor is a 1x1 convolution and a batch norm for maps, and a linear layer for vectors and tokens. It is
    trained together with the student, not in an earlier stage. Of two resolutions, the larger map is pooled to the
    smaller. The mean is over all elements; several layers are summed.

    Args:
        shapes: shapes of the layers: maps, tokens (equally many on both sides) or vectors.
        always: use a regressor for equal widths too, as in the paper; otherwise such features are compared directly.

    Raises:
        TrainingError: a pair of layers of different kinds, or of different numbers of tokens.
    """

    def __init__(self, shapes: Shapes, *, always: bool = True) -> None:
        super().__init__(shapes)
        check_kinds("hint", shapes, [3, 2, 1], "name another layer")
        check_tokens("hint", shapes, "take 'sp' or 'pkt', which compare samples")
        self.projectors = nn.ModuleList(
            make_projector(student, teacher, always=always) for student, teacher in shapes.features
        )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers of the mean square error."""
        errors = []
        for projector, ours, theirs in zip(self.projectors, student.features, teacher.features, strict=True):
            assert isinstance(projector, Projector)
            errors.append(functional.mse_loss(projector(exact(ours)), projector.target(exact(theirs))))
        return torch.stack(errors).sum()


@loss("cosine_features", layers="vector", reduction="pooled")
class CosineFeatures(Loss):
    """One minus the cosine of the two vectors, averaged over the batch (as in DistilBERT, 2019, arXiv:1910.01108).

    Maps and tokens are pooled to vectors first. If widths differ, a linear layer maps the student's vector to the
    teacher's width. The value is in [0, 2] per layer; several layers are summed. Zero vectors count as orthogonal.

    Args:
        shapes: shapes of the layers, the teacher's after pooling.
        always: use a linear layer for equal widths too.
    """

    def __init__(self, shapes: Shapes, *, always: bool = False) -> None:
        super().__init__(shapes)
        check_kinds("cosine_features", shapes, [3, 2, 1], "name another layer")
        self.projectors = nn.ModuleList(
            VectorProjector(pooled_shape(student), teacher, always=always) for student, teacher in shapes.features
        )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers."""
        found = []
        for projector, ours, theirs in zip(self.projectors, student.features, teacher.features, strict=True):
            cosine = (unit(projector(pooled(exact(ours)))) * unit(pooled(exact(theirs)))).sum(dim=1)
            found.append(1 - cosine.mean())
        return torch.stack(found).sum()


@loss("cosine_hidden", layers="last")
class CosineHidden(Loss):
    """One minus the cosine between the last tokens of both networks (DistilBERT; Sanh et al., 2019, arXiv:1910.01108).

    It is averaged over tokens and batch; several layers, if named, are summed. If widths differ, a learned linear layer
    maps the student's tokens to the teacher's width. If they are equal, nothing is learned, and tokens equal to the
    teacher's up to a positive factor give the minimum, 0. Padding tokens count like others.

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
