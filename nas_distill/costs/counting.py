"""Costs that are counted exactly: parameters, multiply-adds, bytes of weights and of activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nas_distill.costs.model import CostModel
from nas_distill.costs.registry import cost, counted_names
from nas_distill.costs.tracing import Trace

if TYPE_CHECKING:
    import torch
    from torch import nn


def count(
    model: nn.Module,
    input_shape: Sequence[int],
    names: Iterable[str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> dict[str, float]:
    """Count the costs ``names`` (all that are counted unless given) of a model on one input of ``input_shape``.

    The shape is without the batch, of any rank. Lower is better for all. Values are whole numbers. The model runs at
    most once, in eval mode, and is left as it was: mode of each module, weights, buffers, torch's generators.

    ``dtype`` is the input's, for models on integers; by default that of the parameters.

    Raises:
        BudgetError: unknown cost name.
        BuildError: the model's forward fails on this shape.
        CostError: the cost is not counted but measured, the model cannot be recorded, or has operations whose work is
            not known.
    """
    return CostModel(counted_names() if names is None else names, input_shape, dtype=dtype).costs(model)


@cost("params", label="params", axis="parameters", reads="module", additive=True)
def params(module: nn.Module) -> float:
    """Parameters, trained or frozen, each shared one once; buffers are none."""
    return float(sum(parameter.numel() for parameter in module.parameters()))


@cost("flops", label="flops", axis="FLOPs (multiply-adds)", reads="trace", additive=True)
def flops(trace: Trace) -> float:
    """Fused multiply-adds of one sample, in convolutions, matrix products, recurrences and attention; the rest is 0.

    They are counted as fvcore counts them, at batch 1; ``cost.multiply_adds`` says of which operations. Element-wise
    work and normalisation count 0.
    """
    return float(trace.flops())


@cost("weight_bytes", unit="B", label="weights", axis="size of weights", reads="module", additive=True)
def weight_bytes(module: nn.Module) -> float:
    """Bytes of parameters and persistent buffers as they are stored, shared memory once."""
    import torch

    sizes: dict[object, int] = {}
    for tensor in module.state_dict(keep_vars=True).values():
        if isinstance(tensor, torch.Tensor):
            # Two names of one memory are one; tensors on the meta device have no memory, only identity.
            place = id(tensor) if tensor.device.type == "meta" else (str(tensor.device), tensor.data_ptr())
            sizes[place] = max(sizes.get(place, 0), tensor.numel() * tensor.element_size())
    return float(sum(sizes.values()))


@cost("peak_activation_bytes", unit="B", label="peak activations", axis="peak activation memory", reads="trace")
def peak_activation_bytes(trace: Trace) -> float:
    """Most activation memory alive at once, in bytes, batch 1, float32.

    The maximum, over operations in their order, of the bytes of every tensor that is still needed (by this or a later
    operation, or as a result) plus what the operation writes. A skip connection's tensor is alive until it is added.
    Views share the tensor they look at. Element-wise operations (activation functions, additions, normalisation by
    fixed statistics) write over an input of equal size that nobody needs any more, whether or not they were asked to
    work in place; the network's input is never written over. Weights, and what is computed from them only, are not
    activations; scratch memory of a kernel is not counted.
    """
    return float(trace.peak_bytes())
