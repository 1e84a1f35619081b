"""The angle between the vectors that student and teacher classify by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_distill.distill.losses.features.tensors import check_kinds, exact, pooled_shape, unit
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.distill.projectors import VectorProjector
from nas_distill.teacher.answer import pooled


@loss("cosine_features", layers="vector", reduction="pooled")
class CosineFeatures(Loss):
    """One minus the cosine of the two vectors, averaged over the batch (as in DistilBERT, 2019, arXiv:1910.01108).

    Maps and tokens are pooled to vectors first. Where widths differ, a linear layer brings the student's to the
    teacher's. In [0, 2] a layer; several are summed. Vectors of zeros count as orthogonal.

    Args:
        shapes: of the layers, the teacher's pooled.
        always: a linear layer also where the widths agree.
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
