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
    """Return the costs ``names`` (default: all counted costs) of a model on one input of ``input_shape``.

    The shape excludes the batch and may have any rank. Lower is better for all costs. Values are whole numbers. The
    model runs at most once, in eval mode. Modes of modules, weights, buffers and torch's generators are restored.

    ``dtype`` is that of the input, for models with integer inputs; by default that of the parameters.

    Raises:
        BudgetError: unknown cost name.
        BuildError: the model's forward fails on this shape.
        CostError: a cost is measured and not counted, the model cannot be recorded, or the work of an operation is
            unknown.
    """
    return CostModel(counted_names() if names is None else names, input_shape, dtype=dtype).costs(model)


@cost("params", label="params", axis="parameters", reads="module", additive=True)
def params(module: nn.Module) -> float:
    """Parameters, trained or frozen, shared ones once; buffers do not count."""
    return float(sum(parameter.numel() for parameter in module.parameters()))


@cost("flops", label="flops", axis="FLOPs (multiply-adds)", reads="trace", additive=True)
def flops(trace: Trace) -> float:
    """Fused multiply-adds of one sample, in convolutions, matrix products, recurrences and attention; the rest is 0.

    The definition is fvcore's, at batch 1; ``costs.flops`` lists the operations. Element-wise work and normalisation
    count 0.
    """
    return float(trace.flops())


@cost("weight_bytes", unit="B", label="weights", axis="size of weights", reads="module", additive=True)
def weight_bytes(module: nn.Module) -> float:
    """Bytes of parameters and persistent buffers as they are stored, shared memory once."""
    import torch

    sizes: dict[object, int] = {}
    for tensor in module.state_dict(keep_vars=True).values():
        if isinstance(tensor, torch.Tensor):
            # Tensors that share memory count once; tensors on the meta device have no memory, only identity.
            memory = id(tensor) if tensor.device.type == "meta" else (str(tensor.device), tensor.data_ptr())
            sizes[memory] = max(sizes.get(memory, 0), tensor.numel() * tensor.element_size())
    return float(sum(sizes.values()))


@cost("peak_activation_bytes", unit="B", label="peak activations", axis="peak activation memory", reads="trace")
def peak_activation_bytes(trace: Trace) -> float:
    """Most activation memory alive at once, in bytes, batch 1, float32.

    It is the maximum over the operations, in order of execution, of the bytes of all tensors that are still needed (by
    this or a later operation, or as a result), plus the bytes that the operation writes. The tensor of a skip
    connection is alive until it is added. A view shares the memory of its base. Element-wise operations (activation
    functions, additions, normalisation by fixed statistics) overwrite an input of equal size that is no longer needed,
    whether or not the model calls them in place; the network's input is never overwritten. Weights, and tensors
    computed only from weights, are not activations; scratch memory of kernels is not counted.
    """

    return float(trace.peak_bytes())
