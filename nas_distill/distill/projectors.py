"""Projectors: learnable maps of student features to the shapes of the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nas_distill.distill.features import pooled_to, smaller
from nas_distill.utils.errors import TrainingError


class BatchNorm(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` that uses the running statistics for a single value per channel, which has no variance.

    That occurs for a 1x1 map and a batch of one sample, for example if a curriculum selects one sample.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) of (B, C, H, W)."""
        if not self.training or x.numel() > x.shape[1]:
            return super().forward(x)
        self.training = False
        try:
            return super().forward(x)
        finally:
            self.training = True


Shape = Sequence[int]


class Projector(nn.Module):
    """Map of a student's feature to the shape of the teacher's.

    ``projector(student)`` is compared with ``projector.target(teacher)``, which has the same shape. If the widths are
    equal, the projector is the identity, unless ``always`` is set. The result has the type of the weights, also for
    features in half precision.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, student: Tensor) -> Tensor:
        """Return the projected feature (B, ...) of the student."""
        weight = next(self.body.parameters(), None)
        result: Tensor = self.body(student if weight is None else student.to(weight.dtype))
        return result

    def target(self, teacher: Tensor) -> Tensor:
        """Return the teacher's feature (B, ...) in the shape of the projection; it has no weights."""
        return teacher


class MapProjector(Projector):
    """Projector of maps (C, H, W): a 1x1 convolution and a batch norm; the larger map is pooled to the smaller size.

    Raises:
        TrainingError: a shape is not (C, H, W).
    """

    def __init__(self, student_shape: Shape, teacher_shape: Shape, *, always: bool = False) -> None:
        (inputs, *ours), (outputs, *theirs) = _checked(student_shape, 3), _checked(teacher_shape, 3)
        if inputs == outputs and not always:
            body: nn.Module = nn.Identity()
        else:
            body = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), BatchNorm(outputs))
        super().__init__(body)
        self.size = smaller(ours, theirs)

    def forward(self, student: Tensor) -> Tensor:
        """Return (B, teacher's C, H, W), H and W those of the smaller map."""
        return super().forward(pooled_to(student, self.size))

    def target(self, teacher: Tensor) -> Tensor:
        """Return (B, teacher's C, H, W), H and W those of the smaller map."""
        return pooled_to(teacher, self.size)


class VectorProjector(Projector):
    """Projector of vectors (D,): a linear layer.

    Raises:
        TrainingError: a shape is not (D,).
    """

    def __init__(self, student_shape: Shape, teacher_shape: Shape, *, always: bool = False) -> None:
        (inputs,), (outputs,) = _checked(student_shape, 1), _checked(teacher_shape, 1)
        super().__init__(_linear(inputs, outputs, always))


class TokenProjector(Projector):
    """Projector of tokens (N, D): one linear layer, shared by all tokens.

    Raises:
        TrainingError: a shape is not (N, D), or the two networks have different numbers of tokens.
    """

    def __init__(self, student_shape: Shape, teacher_shape: Shape, *, always: bool = False) -> None:
        (ours, inputs), (theirs, outputs) = _checked(student_shape, 2), _checked(teacher_shape, 2)
        if ours != theirs:
            raise TrainingError(
                f"The student has {ours} tokens and the teacher {theirs}, so they cannot be compared one by one; give "
                "both the same tokens, or compare attention or logits."
            )
        super().__init__(_linear(inputs, outputs, always))


def make_projector(student_shape: Shape, teacher_shape: Shape, *, always: bool = False) -> Projector:
    """Return the projector for a pair of layers: maps (C, H, W), tokens (N, D) or vectors (D,).

    Raises:
        TrainingError: the layers cannot be compared.
    """
    kinds: dict[int, type[MapProjector | VectorProjector | TokenProjector]]
    kinds = {3: MapProjector, 2: TokenProjector, 1: VectorProjector}
    return kinds[len(student_shape)](student_shape, teacher_shape, always=always)


def _linear(inputs: int, outputs: int, always: bool) -> nn.Module:
    return nn.Identity() if inputs == outputs and not always else nn.Linear(inputs, outputs)


def _checked(shape: Shape, dimensions: int) -> tuple[int, ...]:
    if len(shape) != dimensions:
        raise TrainingError(
            f"A feature has shape {tuple(shape)} per sample; this projector needs {dimensions} "
            f"dimension{'s' if dimensions > 1 else ''}."
        )
    return tuple(shape)
