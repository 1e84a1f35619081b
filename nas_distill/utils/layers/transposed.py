"""Hugging Face's ``Conv1D``, the linear layer of GPT-2: its weight is the transpose of a ``torch.nn.Linear``'s."""

from __future__ import annotations

from typing import cast

from torch import nn


def is_transposed_linear(module: nn.Module) -> bool:
    """Say whether ``module`` is such a layer; Hugging Face's library need not be installed."""
    bases = ((base.__name__, base.__module__.partition(".")[0]) for base in type(module).__mro__)
    return ("Conv1D", "transformers") in bases


def is_linear(module: nn.Module) -> bool:
    """Say whether ``module`` is a linear layer, with a weight in either order of dimensions."""
    return isinstance(module, nn.Linear) or is_transposed_linear(module)


def inputs_of(module: nn.Module) -> int:
    """Return the number of inputs of a linear layer."""
    return module.in_features if isinstance(module, nn.Linear) else cast(int, module.nx)


def outputs_of(module: nn.Module) -> int:
    """Return the number of outputs of a linear layer."""
    return module.out_features if isinstance(module, nn.Linear) else cast(int, module.nf)
