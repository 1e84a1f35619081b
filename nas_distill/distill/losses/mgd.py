"""Masked generative distillation (MGD): the teacher's map generated from a masked map of the student."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from nas_distill.distill.features import exact, pooled_to, smaller
from nas_distill.distill.losses.checks import check_kinds, check_tokens
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss

Share = Annotated[float, Field(ge=0, lt=1)]


class Generator(nn.Module):
    """Generator of a teacher's map: a 1x1 convolution if the widths differ, then two 3x3 ones with a ReLU between."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.align = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.make = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, padding=1)
        )

    def forward(self, student: Tensor, mask: Tensor) -> Tensor:
        """Return (B, outputs, H, W) from (B, inputs, H, W) whose aligned channels are multiplied by ``mask``."""
        generated: Tensor = self.make(self.align(student) * mask)
        return generated


@loss("mgd", weight=7e-5, layers="last")
class MaskedGeneration(Loss):
    """Masked generation: the teacher's map from a part of the student's map (Yang et al., 2022, arXiv:2205.01529).

    The squared error is summed over channels and positions and averaged over the batch, hence the small default weight;
    larger maps count more. Values are not rescaled for the masked share. Of two resolutions, the larger map is pooled
    to the smaller. Several layers are summed.

    Args:
        shapes: shapes of the layers.
        mask: ``channel`` hides channels, as in the paper for classification; ``spatial`` hides positions.
        masked: probability that a channel or position is hidden, drawn for each sample and step; the default is the
            paper's for classification.

    Raises:
        TrainingError: a layer is not a feature map.
    """

    def __init__(
        self, shapes: Shapes, *, mask: Literal["channel", "spatial"] = "channel", masked: Share = 0.15
    ) -> None:
        super().__init__(shapes)
        check_kinds("mgd", shapes, [3], "take 'hint' for tokens and vectors, or name a feature map")
        check_tokens("mgd", shapes, "take 'sp' or 'pkt', which compare samples")
        self.mask, self.masked = mask, masked
        self.generators = nn.ModuleList(Generator(student[0], teacher[0]) for student, teacher in shapes.features)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the sum over layers of the squared error per sample."""
        found = []
        for generator, ours, theirs in zip(self.generators, student.features, teacher.features, strict=True):
            size = smaller(ours.shape, theirs.shape)
            weight = next(generator.parameters())
            ours = pooled_to(exact(ours), size).to(weight.dtype)
            theirs = pooled_to(exact(theirs), size)
            by = (*theirs.shape[:2], 1, 1) if self.mask == "channel" else (len(theirs), 1, *size)
            kept = (torch.rand(by, device=ours.device) >= self.masked).to(ours.dtype)
            found.append((generator(ours, kept) - theirs).square().sum() / len(theirs))
        return torch.stack(found).sum()
