"""Knowledge review (ReviewKD): a teacher's layer teaches the student's layer of the same depth and deeper ones."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.distill.features import exact, pooled_to, smaller
from nas_distill.distill.losses.checks import check_kinds, check_tokens
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.distill.projectors import BatchNorm

Count = Annotated[int, Field(gt=0)]


class Fusion(nn.Module):
    """Attention-based fusion (ABF) of a layer of the student with the fused map of the deeper layers.

    ``deepest``: for the deepest layer, without fusion.
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, deepest: bool) -> None:
        super().__init__()
        self.take = nn.Sequential(nn.Conv2d(inputs, middle, 1, bias=False), BatchNorm(middle))
        self.give = nn.Sequential(nn.Conv2d(middle, outputs, 3, padding=1, bias=False), BatchNorm(outputs))
        self.attend = None if deepest else nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid())

    def forward(self, feature: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the map for comparison with the teacher, (B, outputs, *size), and the fused map, (B, middle, H, W).

        Args:
            feature: (B, inputs, H, W), the student's.
            deeper: (B, middle, h, w), the fused map of the next deeper layer, or None.
            size: size of the comparison, at most (H, W).
        """
        taken: Tensor = self.take(feature)
        if self.attend is not None and deeper is not None:
            deeper = functional.interpolate(deeper, size=taken.shape[2:], mode="nearest")
            maps = self.attend(torch.cat([taken, deeper], dim=1))
            taken = taken * maps[:, :1] + deeper * maps[:, 1:]
        return self.give(pooled_to(taken, size)), taken


def hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the hierarchical context loss (HCL) of two maps of equal shape (B, C, H, W), a scalar.

    It is the weighted mean of the mean squared errors of the maps and of their averages on 4x4, 2x2 and 1x1 positions
    (those coarser than the map), with weights 1, 1/2, 1/4, 1/8. Equal maps give the minimum, 0.
    """
    total, weights, weight = functional.mse_loss(student, teacher), 1.0, 1.0
    for places in (4, 2, 1):
        if places >= max(student.shape[2:]):
            continue
        weight /= 2
        size = (min(places, student.shape[2]), min(places, student.shape[3]))
        total = total + weight * functional.mse_loss(pooled_to(student, size), pooled_to(teacher, size))
        weights += weight
    return total / weights


@loss("reviewkd", layers="stages")
class Review(Loss):
    """Knowledge review: maps fused from the deep end, compared at several scales (Chen et al., 2021, arXiv:2104.09044).

    Attention-based fusion and the hierarchical context loss, summed over layers. The paper's weight is 0.6 to 8,
    depending on the pair of networks, with a ramp over the first 20 of 240 epochs (``warmup`` 0.08). The paper's
    additional layer, the vector before the classifier, is omitted. Of two resolutions, the larger map is pooled to the
    smaller; in the fusion, a deeper map is enlarged to the size of the next.

    Args:
        shapes: shapes of the layers, shallow first.
        middle: channels of the fused maps; None: those of the student's deepest layer, at most 512.

    Raises:
        TrainingError: a layer is not a feature map.
    """

    def __init__(self, shapes: Shapes, *, middle: Count | None = None) -> None:
        super().__init__(shapes)
        check_kinds("reviewkd", shapes, [3], "take 'hint' for tokens and vectors, or name feature maps")
        check_tokens("reviewkd", shapes, "take 'sp' or 'pkt', which compare samples")
        width = min(512, shapes.features[-1][0][0]) if middle is None else middle
        deepest = len(shapes.features) - 1
        self.fusions = nn.ModuleList(
            Fusion(student[0], width, teacher[0], deepest=index == deepest)
            for index, (student, teacher) in enumerate(shapes.features)
        )

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers of the hierarchical context loss."""
        found: list[Tensor] = []
        deeper: Tensor | None = None
        layers = list(zip(self.fusions, student.features, teacher.features, strict=True))
        for fusion, ours, theirs in reversed(layers):
            size = smaller(ours.shape, theirs.shape)
            weight = next(fusion.parameters())
            fused, deeper = fusion(exact(ours).to(weight.dtype), deeper, size)
            found.append(hierarchical(fused, pooled_to(exact(theirs), size)))
        return torch.stack(found).sum()
