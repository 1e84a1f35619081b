"""One pass through a model, written down, so that a candidate is run once whatever is asked of it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from nas_distill.common.errors import BuildError, CostError, first_line
from nas_distill.cost.graph import GraphReader
from nas_distill.cost.ops import Trace
from nas_distill.cost.undisturbed import device_of, input_dtype, undisturbed

if TYPE_CHECKING:
    import torch
    from torch import nn


def trace(model: nn.Module, input_shape: Sequence[int], dtype: torch.dtype | None = None) -> Trace:
    """Run ``model`` once in eval mode on one input of ``input_shape`` and return what it did.

    The model is left as it was (``undisturbed``). ``dtype`` is that of the input, by default the parameters'.

    Raises:
        BuildError: the model's forward fails on this shape, or it has parameters that have no shape yet.
        CostError: the forward runs, but cannot be traced.
    """
    import torch

    shape = (1, *(int(size) for size in input_shape))
    refuse_lazy(model)
    with undisturbed(model):
        data = example(shape, input_dtype(model, dtype)).to(device_of(model))
        try:
            # The entry that fvcore uses too; without its scopes, which double the time.
            graph = torch.jit._get_trace_graph(tensors_only(model), (data,))[0]
        except Exception as error:
            _explain(model, data, error)
        return GraphReader().read(graph)


def example(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return the same noise each time for floating-point types (zeros make some models fail), zeros for others."""
    import torch

    if dtype.is_floating_point:
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.zeros(tuple(shape), dtype=dtype)


def refuse_lazy(model: nn.Module) -> None:
    """Raise BuildError for a model with lazy parameters: running it would give them shapes and so change it."""
    from torch.nn.parameter import is_lazy

    if any(is_lazy(tensor) for tensor in itertools.chain(model.parameters(), model.buffers())):
        raise BuildError("the model has lazy parameters without a shape; run it once on data before it is used here.")


def tensors_only(model: nn.Module) -> nn.Module:
    """Wrap a model so that whatever it returns, mappings too, becomes a tuple of its tensors."""
    import torch
    from torch.utils._pytree import tree_leaves

    class TensorsOnly(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, data: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = tree_leaves(self.model(data))
            return tuple(leaf for leaf in found if isinstance(leaf, torch.Tensor))

    wrapper = TensorsOnly()
    wrapper.training = False
    return wrapper


def _explain(model: nn.Module, data: torch.Tensor, error: Exception) -> NoReturn:
    """Raise what a user can act on: does the forward itself fail, or only its tracing?"""
    shape = tuple(data.shape)
    try:
        model(data)
    except Exception as cause:
        raise BuildError(f"the model's forward fails on an input of shape {shape}: {first_line(cause)}") from cause
    raise CostError(
        f"the model runs on an input of shape {shape} but torch cannot trace it: {first_line(error)}"
    ) from error
