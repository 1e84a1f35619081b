"""Projectors: learnable maps from student features to the shape of the teacher's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from nas_distill.distill.features import pooled_to, smaller
from nas_distill.utils.errors import TrainingError


class BatchNorm(nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d``; one sample of one place, which has no variance, goes by the running statistics.

    That is what a batch of one leaves of a map of 1x1, also where a curriculum left one sample of more.
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
    """Brings a student's feature to the shape of its teacher's.

    ``projector(student)`` is compared with ``projector.target(teacher)``; the two have one shape. Where the sizes agree
    already nothing is learned (``always`` puts weights there all the same). What comes out is of the weights' type,
    also for features of half precision.
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
        """Return what the teacher's feature (B, ...) is compared as; it has no weights."""
        return teacher


class MapProjector(Projector):
    """For maps of (C, H, W): a 1x1 convolution and a batch norm; the larger map is averaged to the smaller's size.

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
    """For vectors of (D,): a linear layer.

    Raises:
        TrainingError: a shape is not (D,).
    """

    def __init__(self, student_shape: Shape, teacher_shape: Shape, *, always: bool = False) -> None:
        (inputs,), (outputs,) = _checked(student_shape, 1), _checked(teacher_shape, 1)
        super().__init__(_linear(inputs, outputs, always))


class TokenProjector(Projector):
    """For tokens of (N, D): one linear layer for all tokens.

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
    """Return the projector for a pair of layers, by the student's: a map (C, H, W), tokens (N, D) or a vector (D,).

    Raises:
        TrainingError: the two cannot be compared.
    """
    kinds: dict[int, type[MapProjector | VectorProjector | TokenProjector]]
    kinds = {3: MapProjector, 2: TokenProjector, 1: VectorProjector}
    return kinds[len(student_shape)](student_shape, teacher_shape, always=always)


def _linear(inputs: int, outputs: int, always: bool) -> nn.Module:
    return nn.Identity() if inputs == outputs and not always else nn.Linear(inputs, outputs)


def _checked(shape: Shape, dimensions: int) -> tuple[int, ...]:
    if len(shape) != dimensions:
        raise TrainingError(
            f"A feature of shape {tuple(shape)} for each sample does not fit here; it must have {dimensions} "
            f"dimension{'s' if dimensions > 1 else ''}."
        )
    return tuple(shape)
