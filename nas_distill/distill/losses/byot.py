"""Self-distillation: the student's deepest classifier teaches heads on its own shallower stages."""

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

    Each stage but the last gets a head, pooling and a linear classifier, that learns ``(1 - alpha) * CE(labels) + alpha
    * T^2 * KL(the student's logits || its own)``, and a linear map of its pooled features that learns the last stage's
    by ``hint`` times the squared distance. The student's logits and its last stage are the teacher here and get no
    gradient from it. Heads are summed. They are trained beside the student and are no part of it; labels for the
    student itself are another term's matter.
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
            raise TrainingError("The loss 'byot' needs a student of at least two stages; take it out for this one.")
        self.alpha, self.temperature, self.hint = alpha, temperature, hint
        widths = [pooled_shape(student)[0] for student, _ in shapes.features]
        self.heads = nn.ModuleList([nn.Linear(width, shapes.classes) for width in widths[:-1]])
        self.maps = nn.ModuleList([nn.Linear(width, widths[-1]) for width in widths[:-1]])

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Tensor:
        """Return the heads' losses, summed."""
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
