"""Operations on features of layers: precision, scaling to norm 1, pooling to one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def exact(x: Tensor) -> Tensor:
    """Return ``x`` in float32 if it is in half precision, in which squares of features overflow."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def scaled(x: Tensor, dim: tuple[int, ...] | None = None, *, floor: float = 1e-6) -> Tensor:
    """Return ``x`` divided by its largest magnitude along ``dim`` (None: all dimensions), which is a constant.

    Used by losses that do not depend on the scale of ``x``: value and gradient are unchanged, and squares stay finite.
    If all magnitudes are below ``floor`` (dead units), ``x`` is divided by ``floor`` instead.
    """
    size = x.detach().abs()
    size = size.amax() if dim is None else size.amax(dim, keepdim=True)
    return x / size.clamp_min(floor)


def unit(x: Tensor, dim: int | tuple[int, ...] = 1, *, floor: float = 1e-6) -> Tensor:
    """Return ``x`` with Euclidean norm 1 along ``dim``; zeros stay zeros, with finite gradients.

    Args:
        x: of any shape.
        dim: dimensions of the norm.
        floor: vectors whose largest magnitude is below it are not scaled up to norm 1.
    """
    dim = (dim,) if isinstance(dim, int) else dim
    x = scaled(x, dim, floor=floor)
    # The largest element is 1, so the norm is at least 1, unless all elements are below the floor.
    result: Tensor = x / torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp_min(0.5)
    return result


def pooled_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (..., H, W) pooled by averaging to ``size``, (height, width)."""
    return x if tuple(x.shape[-2:]) == size else functional.adaptive_avg_pool2d(x, size)


def smaller(one: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    """Return the smaller height and the smaller width of two shapes (..., H, W)."""
    return min(one[-2], other[-2]), min(one[-1], other[-1])


def pooled_shape(shape: tuple[int, ...]) -> tuple[int]:
    """Return the shape (D,) of a map (C, H, W), tokens (N, D) or a vector (D,) after pooling."""
    return (shape[-1] if len(shape) == 2 else shape[0],)
