"""Shared parts of feature losses: shape checks, pooling to one size, safe norms."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nas_distill.distill.losses.loss import Shapes
from nas_distill.utils.errors import TrainingError


def exact(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if it is of half precision, since squares of features do not fit in that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scaled(x: Tensor, dim: tuple[int, ...] | None = None, *, floor: float = 1e-6) -> Tensor:
    """Return ``x`` over its largest magnitude along ``dim`` (None: of all), seen as a constant.

    For what does not depend on the size of ``x``: neither value nor gradient is changed, and squares stay finite.
    Where all is below ``floor`` (dead units), it is divided by that instead.
    """
    size = x.detach().abs()
    size = size.amax() if dim is None else size.amax(dim, keepdim=True)
    return x / size.clamp_min(floor)


def unit(x: Tensor, dim: int | tuple[int, ...] = 1, *, floor: float = 1e-6) -> Tensor:
    """Return ``x`` with Euclidean norm 1 along ``dim``; what is all zero stays so, its gradient finite.

    Args:
        x: of any shape.
        dim: over which the norm is taken.
        floor: of the largest magnitude; what is below it is not brought up to norm 1.
    """
    dim = (dim,) if isinstance(dim, int) else dim
    x = scaled(x, dim, floor=floor)
    # Its largest element is 1, so the norm is not below 1, but where all is below the floor.
    result: Tensor = x / torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp_min(0.5)
    return result


def pooled_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (..., H, W) averaged to ``size``, (height, width)."""
    return x if tuple(x.shape[-2:]) == size else functional.adaptive_avg_pool2d(x, size)


def smaller(one: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    """Return the smaller of each of the last two sizes of two shapes (..., H, W)."""
    return min(one[-2], other[-2]), min(one[-1], other[-1])


def pooled_shape(shape: tuple[int, ...]) -> tuple[int]:
    """Return the shape (D,) of what pooling leaves of a map (C, H, W), tokens (N, D) or a vector (D,)."""
    return (shape[-1] if len(shape) == 2 else shape[0],)


_KINDS = {3: "a map (C, H, W)", 2: "tokens (N, D)", 1: "a vector (D,)"}


def check_kinds(name: str, shapes: Shapes, ranks: Sequence[int], instead: str) -> None:
    """Refuse layers that the loss ``name`` cannot compare.

    Args:
        name: of the loss.
        shapes: those of its layers.
        ranks: of the samples' shapes that the student's layer may have: 3 for maps, 2 for tokens, 1 for vectors.
        instead: what to take for others, an end of a sentence.

    Raises:
        TrainingError: there is no layer, or one of another kind.
    """
    if not shapes.features:
        raise TrainingError(f"The loss '{name}' needs at least one pair of layers, and got none.")
    for student, _ in shapes.features:
        if len(student) not in ranks:
            allowed = " or ".join(_KINDS[rank] for rank in ranks)
            raise TrainingError(
                f"The loss '{name}' compares {allowed} of each sample, and the student's layer gives {tuple(student)}; "
                f"{instead}."
            )


def check_tokens(name: str, shapes: Shapes, instead: str) -> None:
    """Refuse pairs of unequal kinds or, of tokens, unequal numbers; the teacher's features are to be whole.

    Raises:
        TrainingError: such a pair.
    """
    for student, teacher in shapes.features:
        if len(student) != len(teacher) or (len(student) == 2 and student[0] != teacher[0]):
            raise TrainingError(
                f"The loss '{name}' compares place by place, which the student's layer {tuple(student)} and the "
                f"teacher's {tuple(teacher)} do not allow; {instead}."
            )


def check_places(name: str, shapes: Shapes, instead: str) -> None:
    """Refuse features that are all of a single place, of which a loss on where a layer is active learns nothing.

    A pair of one place among others adds 0.

    Args:
        name: of the loss.
        shapes: of its layers: maps (C, H, W), a teacher's maybe reduced to (H, W), or tokens (N, D).
        instead: what to take, an end of a sentence.

    Raises:
        TrainingError: no pair has two places or more.
    """
    if all(_places(student, teacher) == 1 for student, teacher in shapes.features):
        student, teacher = shapes.features[-1]
        raise TrainingError(
            f"The loss '{name}' compares where a layer is active, and the student's layer {tuple(student)} beside the "
            f"teacher's {tuple(teacher)} has a single place, which makes it constant; {instead}."
        )


def _places(student: tuple[int, ...], teacher: tuple[int, ...]) -> int:
    return student[0] if len(student) == 2 else math.prod(smaller(student, teacher))


def check_pairs(name: str, shapes: Shapes) -> None:
    """Raise TrainingError if there is no pair of layers for the loss ``name``."""
    if not shapes.features:
        raise TrainingError(f"The loss '{name}' got no pair of layers; leave 'layers' at auto, or name pairs.")


def check_attention(name: str, shapes: Shapes) -> None:
    """Refuse layers that the loss ``name`` cannot compare.

    Raises:
        TrainingError: there is no pair, one is not of stacked queries, keys and values (3, heads, N, d), or the two of
            a pair have different numbers of tokens.
    """
    check_pairs(name, shapes)
    for pair in shapes.features:
        for shape in pair:
            if len(shape) != 4 or shape[0] != 3:
                raise TrainingError(
                    f"The loss '{name}' compares queries, keys and values (3, heads, N, d), not {tuple(shape)}; name "
                    "attentions as 'path:qkv', or leave 'layers' at auto."
                )
        ours, theirs = pair
        if ours[2] != theirs[2]:
            raise TrainingError(
                f"The loss '{name}' compares tokens with tokens, but the student has {ours[2]} of them and the teacher "
                f"{theirs[2]}; give both the same tokens, or take a loss on logits."
            )


def check_heads(name: str, shapes: Shapes) -> None:
    """Raise TrainingError if a pair of attentions (3, heads, N, d) has different numbers of heads."""
    for ours, theirs in shapes.features:
        if ours[1] != theirs[1]:
            raise TrainingError(
                f"The loss '{name}' compares head with head, but the student has {ours[1]} heads and the teacher "
                f"{theirs[1]}; take 'minilm', which leaves the number free, or give the student {theirs[1]}."
            )
