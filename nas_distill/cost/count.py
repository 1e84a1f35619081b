"""What a model costs that can be counted exactly: parameters, multiply-adds, bytes of weights and of activations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nas_distill.common.errors import CostError
from nas_distill.cost.ops import Trace
from nas_distill.cost.recorder import trace
from nas_distill.cost.registry import cost_info
from nas_distill.cost.undisturbed import refuse_lazy

if TYPE_CHECKING:
    import torch
    from torch import nn

COUNTED = ("params", "flops", "weight_bytes", "peak_activation_bytes")
"""The costs that are counted; the others are measured or predicted."""
TRACED = ("flops", "peak_activation_bytes")
"""Those of them for which the model must run."""


def count(
    model: nn.Module,
    input_shape: Sequence[int],
    names: Iterable[str] = COUNTED,
    *,
    dtype: torch.dtype | None = None,
) -> dict[str, float]:
    """Count the costs ``names`` of a model on one input of shape ``input_shape`` (without the batch, of any rank).

    Lower is better for all. Values are whole numbers. The model runs at most once, in eval mode, and is left as it
    was: mode of each module, weights, buffers, torch's generators.

    - ``params``: elements of all parameters, trained or frozen, each shared one once; buffers are none.
    - ``weight_bytes``: bytes of parameters and persistent buffers as they are stored, shared memory once.
    - ``flops``: fused multiply-adds as fvcore counts them, batch 1. ``cost.multiply_adds`` says of which operations.
    - ``peak_activation_bytes``: the most memory that activations take at any time of a forward pass, batch 1, in
      float32: the maximum, over operations in their order, of the bytes of every tensor that is still needed (by this
      or a later operation, or as a result) plus what the operation writes. A skip connection's tensor is alive until
      it is added. Views share the tensor they look at. Element-wise operations (activation functions, additions,
      normalisation by fixed statistics) write over an input of equal size that nobody needs any more, whether or not
      they were asked to work in place; the network's input is never written over. Weights, and what is computed from
      them alone, are not activations; scratch memory of a kernel is not counted.

    ``dtype`` is the input's, for models on integers; by default that of the parameters.

    Raises:
        BudgetError: unknown cost name.
        BuildError: the model's forward fails on this shape.
        CostError: the cost is not counted but measured, the model cannot be recorded, or has operations whose work is
            not known.
    """
    names = tuple(names)
    for name in names:
        cost_info(name)
    traced = trace(model, input_shape, dtype) if any(name in TRACED for name in names) else None
    return {name: count_one(name, model, traced) for name in names}


def count_one(name: str, model: nn.Module, traced: Trace | None) -> float:
    """Count one cost, from a trace where it takes one; errors as ``count``."""
    if traced is None:
        refuse_lazy(model)
    if name == "params":
        return float(sum(parameter.numel() for parameter in model.parameters()))
    if name == "weight_bytes":
        return float(_weight_bytes(model))
    if name in TRACED and traced is not None:
        return float(traced.flops() if name == "flops" else traced.peak_bytes())
    raise CostError(f"'{name}' is measured or predicted, not counted.")


def _weight_bytes(model: nn.Module) -> int:
    import torch

    sizes: dict[object, int] = {}
    for tensor in model.state_dict(keep_vars=True).values():
        if isinstance(tensor, torch.Tensor):
            # Two names of one memory are one; tensors on the meta device have no memory, only identity.
            place = id(tensor) if tensor.device.type == "meta" else (str(tensor.device), tensor.data_ptr())
            sizes[place] = max(sizes.get(place, 0), tensor.numel() * tensor.element_size())
    return sum(sizes.values())
