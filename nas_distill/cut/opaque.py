"""Parts that no dependency graph can be read through, and how as much as possible is read around them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nas_distill.common.layers import tensor_of
from nas_distill.common.layers.hooks import Hooks
from nas_distill.common.seeds import seeded_torch

Read = TypeVar("Read")


class RecurrentStandIn(nn.Module):
    """Stands in for a recurrent layer (GRU, LSTM, RNN) while a graph is read: it reads the same inputs at each step.

    Its outputs have the layer's shapes. Nothing that they lead to may be cut.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.state = layer.proj_size or layer.hidden_size
        self.directions = 2 if layer.bidirectional else 1
        self.copies = self.directions * layer.num_layers
        self.pairs, self.batch_first = isinstance(layer, nn.LSTM), layer.batch_first
        self.memory = layer.hidden_size
        like = next(layer.parameters())
        width = self.state * self.directions
        self.inside = nn.Linear(layer.input_size, width, device=like.device, dtype=like.dtype)

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Map (B, N, in), as the layer orders them, to outputs and last states of the layer's shapes."""
        made: Tensor = self.inside(x)
        last = made.mean(-2 if x.dim() == 2 else int(self.batch_first))
        hidden = torch.stack([last[..., : self.state]] * self.copies)
        if not self.pairs:
            return made, hidden
        return made, (hidden, hidden[..., :1].expand(*hidden.shape[:-1], self.memory))


def stand_in(module: nn.Module) -> dict[nn.Module, str]:
    """Replace the recurrent layers of ``module``, in place; return the linear layers inside of theirs, with names."""
    found: dict[nn.Module, str] = {}
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.RNNBase):
            owner, _, leaf = name.rpartition(".")
            with seeded_torch(0, "stand-in"):
                made = RecurrentStandIn(layer)
            module.get_submodule(owner)._modules[leaf] = made
            found[made.inside] = name
    return found


class Until(nn.Module):
    """The part of a network's forward pass before the one call of a module: it returns what that is given."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module, self.name = module, name

    def forward(self, x: Tensor) -> Tensor:
        """Return the tensor that reaches the module."""

        def stop(part: nn.Module, args: Any, kwargs: Any) -> None:
            raise _ReachedError(tensor_of((args, kwargs)))

        with Hooks() as hooks:
            hooks.before(self.module.get_submodule(self.name), stop)
            try:
                self.module(x)
            except _ReachedError as reached:
                return reached.tensor
        raise ValueError(f"the network does not call '{self.name}'")


class _ReachedError(Exception):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__("reached")
        self.tensor = tensor


def longest_prefix(names: list[str], read: Callable[[str], Read]) -> tuple[str, Read] | None:
    """Return the last of ``names`` before whose call the network can be read, and what is read; None if none can.

    Args:
        names: modules that are called once, in the order of their calls.
        read: reads what comes before one of them, and raises where it cannot.
    """
    best: tuple[str, Read] | None = None
    low, high = 0, len(names) - 1
    while low <= high:
        middle = (low + high) // 2
        with suppress(Exception):
            best = names[middle], read(names[middle])
        if best is not None and best[0] == names[middle]:
            low = middle + 1
        else:
            high = middle - 1
    return best
