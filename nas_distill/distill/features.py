"""Operations on features of layers: precision, scaling to norm 1, pooling to one size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


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
