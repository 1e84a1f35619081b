"""Running a model to look at it, and leaving it as it was."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nas_distill.utils.errors import BuildError
from nas_distill.utils.modules import quiet

if TYPE_CHECKING:
    import torch
    from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter or buffer, the CPU for one that has neither."""
    import torch

    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")


def input_dtype(model: nn.Module, dtype: torch.dtype | None) -> torch.dtype:
    """Return ``dtype``, or where it is None the type of the model's first floating-point parameter, or float32."""
    import torch

    if dtype is not None:
        return dtype
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)


def noise(model: nn.Module, shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Return random float32 inputs on the CPU on which ``model`` runs.

    They are normal noise; for a model with embeddings, whole numbers that each of these has an entry for.
    """
    import torch

    tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    entries = [module.num_embeddings for module in model.modules() if isinstance(module, tables)]
    if entries:
        return torch.randint(min(entries), tuple(shape), generator=generator).float()
    return torch.randn(tuple(shape), generator=generator)


def example(model: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return the same noise each time for floating-point types (zeros make some models fail), zeros for others."""
    import torch

    if dtype.is_floating_point:
        return noise(model, shape, torch.Generator().manual_seed(0)).to(dtype)
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


def frozen_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in eval mode without gradients, in a form that torch's exporters trace.

    Where a module names another one as ``traced``, that one is copied: a graph, which is in eval mode as it is.
    """
    from torch import nn

    inner = getattr(module, "traced", None)
    if isinstance(inner, nn.Module):
        return copy.deepcopy(inner).cpu().requires_grad_(False)
    return copy.deepcopy(module).cpu().eval().requires_grad_(False)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a block with ``model`` in eval mode and without gradients; give back what the block may have touched.

    Restored, also after an error: the mode of every module, buffers (values and identity), and torch's global
    generators. Inside, warnings and torch's log lines are held back, and the fused fast path of torch's transformer
    layers is off, because it hides the operations that are to be counted.
    """
    import torch

    from nas_distill.utils.layers.hooks import unfused
    from nas_distill.utils.modules import eval_mode

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
