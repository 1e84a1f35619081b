"""Self-distillation: heads on a student's shallower stages learn from its deepest classifier."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from nas_distill.distill.features import pooled_shape
from nas_distill.distill.losses.kd import Temperature, divergence
from nas_distill.distill.losses.loss import Batch, Loss, Outputs, Shapes
from nas_distill.distill.losses.registry import loss
from nas_distill.teacher.signal import pooled
from nas_distill.utils.errors import TrainingError


@loss("byot", layers="stages", own=True, taught=False, tasks=("classification",))
class BeYourOwnTeacher(Loss):
    """Self-distillation through heads on the student's own stages (BYOT; Zhang et al., 2019, arXiv:1905.08094).

    Each stage except the last gets a head (pooling and a linear classifier), which learns ``(1 - alpha) * CE(labels) +
    alpha * T^2 * KL(student's logits || head's logits)``, and a linear map from its pooled features to those of the
    last stage, which learns ``hint`` times the squared distance. The student's logits and its last stage act as the
    teacher and get no gradient. The losses of the heads are summed. The heads are trained beside the student and are
    not part of it. The student's own loss on labels is a separate term.
    """

    def __init__(
        self,
        shapes: Shapes,
        *,
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.1,
        temperature: Temperature = 3.0,
        hint: Annotated[float, Field(ge=0)] = 1e-6,
    ) -> None:
        super().__init__(shapes)
        if len(shapes.features) < 2:
            raise TrainingError("The loss 'byot' needs a student of at least two stages; remove the term for this one.")
        self.alpha, self.temperature, self.hint = alpha, temperature, hint
        widths = [pooled_shape(student)[0] for student, _ in shapes.features]
        self.heads = nn.ModuleList([nn.Linear(width, shapes.classes) for width in widths[:-1]])
        self.maps = nn.ModuleList([nn.Linear(width, widths[-1]) for width in widths[:-1]])

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """Return the sum of the losses of all heads."""
        *shallow, deepest = [pooled(feature) for feature in student.features]
        answer, target = student.logits.detach(), deepest.detach()
        total = torch.zeros((), dtype=answer.dtype, device=answer.device)
        for feature, head, to_deepest in zip(shallow, self.heads, self.maps, strict=True):
            logits = head(feature)
            hard = functional.cross_entropy(logits, batch.labels)
            soft = divergence(logits, answer, self.temperature)
            distance = (to_deepest(feature) - target).square().sum(dim=1).mean()
            total = total + (1 - self.alpha) * hard + self.alpha * soft + self.hint * distance
        return total
