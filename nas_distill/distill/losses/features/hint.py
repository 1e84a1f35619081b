"""Hints: a layer that becomes, through a regressor, its teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.distill.losses.features.tensors import check_kinds, check_tokens, exact
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.distill.projectors import Projector, make_projector


@loss("hint", weight=100.0, layers="last")
class Hint(Loss):
    """FitNets' hints: mean square error of the regressed features (Romero et al., 2015, arXiv:1412.6550).

    The regressor is a 1x1 convolution and a batch norm, or a linear layer for vectors and for each token; it is trained
    along with the student instead of in a stage before. Of two resolutions the larger map is averaged to the smaller.
    The mean is over all elements; several layers are summed.

    Args:
        shapes: of the layers: maps, tokens (as many on both sides) or vectors.
        always: a regressor also where the widths agree, as in the paper; without it such features are compared as
            they are.

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
