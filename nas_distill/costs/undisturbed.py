"""Inspection of a model by running it, with its state restored afterwards."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nas_distill.utils.errors import BuildError
from nas_distill.utils.modules import device_of, eval_mode, quiet

if TYPE_CHECKING:
    import torch
    from torch import nn


def input_dtype(model: nn.Module, dtype: torch.dtype | None) -> torch.dtype:
    """Return ``dtype``; if it is None, the type of the model's first floating-point parameter, or else float32."""
    import torch

    if dtype is not None:
        return dtype
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)


def noise(model: nn.Module, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Return random float32 inputs of ``shape`` for ``model``, on the CPU.

    They are normal noise, or for a model with embeddings whole numbers that are valid indices of each of them.
    """
    import torch

    tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    entries = [module.num_embeddings for module in model.modules() if isinstance(module, tables)]
    if entries:
        return torch.randint(min(entries), tuple(shape), generator=generator).float()
    return torch.randn(tuple(shape), generator=generator)


def example(model: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a fixed input of ``shape``: noise for floating-point types (some models fail on zeros), else zeros."""
    import torch

    if dtype.is_floating_point:
        return noise(model, shape, torch.Generator().manual_seed(0)).to(dtype)
    return torch.zeros(tuple(shape), dtype=dtype)


def refuse_lazy(model: nn.Module) -> None:
    """Raise BuildError for a model with lazy parameters: running the model would initialise and so change them."""
    from torch.nn.parameter import is_lazy

    if any(is_lazy(tensor) for tensor in itertools.chain(model.parameters(), model.buffers())):
        raise BuildError("the model has lazy parameters without a shape; run the model once on data before this.")


def tensors_only(model: nn.Module) -> nn.Module:
    """Return a wrapped model whose output, of any structure, is flattened to a tuple of its tensors."""
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


def frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in eval mode without gradients, in a form that torch's exporters can trace.

    If a module has an attribute ``traced`` (a graph, which is in eval mode already), that module is copied instead.
    """
    from torch import nn

    inner = getattr(module, "traced", None)
    if isinstance(inner, nn.Module):
        return copy.deepcopy(inner).cpu().requires_grad_(False)
    return copy.deepcopy(module).cpu().eval().requires_grad_(False)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a block with ``model`` in eval mode and without gradients, and restore its state afterwards.

    The mode of every module, buffers (values and identity) and torch's global generators are restored, also after an
    error. Within the block, warnings and torch's log lines are suppressed, and the fused fast path of torch's
    transformer layers is off, because it hides the operations to be counted.
    """
    import torch

    from nas_distill.utils.layers.hooks import unfused

    modules = list(model.modules())
    buffers = [dict(module._buffers) for module in modules]
    values = [
        (tensor, tensor._version, tensor.detach().clone())
        for held in buffers
        for tensor in held.values()
        if tensor is not None
    ]
    device = device_of(model)
    devices = [device] if device.type == "cuda" else []
    silence = quiet(prints=False)
    with silence, torch.random.fork_rng(devices), torch.no_grad(), unfused(model), eval_mode(model):
        try:
            yield
        finally:
            for module, held in zip(modules, buffers):
                for name, tensor in held.items():
                    if module._buffers[name] is not tensor:
                        module._buffers[name] = tensor
            for tensor, version, value in values:
                if tensor._version != version:
                    tensor.copy_(value)
