"""Channels of block outputs: restriction, padding, and batch norm statistics of modules under training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.pruning.statistics import batch_norms
from nas_distill.utils.errors import SpaceError


def axis_of(tokens: bool) -> int:
    """Return the channel dimension: the last of tokens (B, N, D), the second of maps (B, C, H, W)."""
    return -1 if tokens else 1


def restrict(tensor: Tensor, kept: Tensor | None, axis: int) -> Tensor:
    """Return a copy with only the channels ``kept`` (K,); with all channels if None."""
    if kept is None:
        return tensor.clone()
    layout = torch.channels_last if tensor.dim() == 4 and _is_channels_last(tensor) else torch.contiguous_format
    return tensor.index_select(axis, kept).contiguous(memory_format=layout)


def fill(tensor: Tensor, kept: Tensor | None, axis: int, others: Tensor) -> Tensor:
    """Return all channels: the ``kept`` ones from ``tensor``, the rest from ``others``."""
    return tensor if kept is None else others.index_copy(axis, kept, tensor)


def along(values: Tensor, dims: int, axis: int) -> Tensor:
    """Return ``values`` (C,) in a shape that broadcasts along ``axis`` of a tensor with ``dims`` dimensions."""
    shape = [1] * dims
    shape[axis] = -1
    return values.view(shape)


def by_channel(tensor: Tensor, axis: int) -> Tensor:
    """Return the mean (C,) over all other dimensions, in float64."""
    others = [dim for dim in range(tensor.dim()) if dim != axis % tensor.dim()]
    return tensor.double().mean(dim=others)


def first_tensor(output: Any, where: str) -> Tensor:
    """Return the tensor that a block returns, by itself or as the first entry of a tuple.

    Raises:
        SpaceError: the block returns something else.
    """
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor):
        raise SpaceError(
            f"block '{where}' returns a {type(output).__name__}; blockwise distillation needs a tensor, or a tuple "
            "that begins with one."
        )
    return first


def put_first(output: Any, tensor: Tensor) -> Any:
    """Return a block's output with its (first) tensor replaced."""
    return type(output)([tensor, *output[1:]]) if isinstance(output, tuple | list) else tensor


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def train_norms_only(module: nn.Module) -> None:
    """Set train mode for batch norms and eval mode for the rest: dropout disturbs a regression on activations."""
    module.eval()
    for norm in batch_norms([module]):
        norm.train()
