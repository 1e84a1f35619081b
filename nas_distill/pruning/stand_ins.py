"""Stand-ins for layers that torch-pruning does not know, while a graph is read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.utils.layers.transposed import inputs_of, is_transposed_linear, outputs_of
from nas_distill.utils.seeds import seeded_torch


class RecurrentStandIn(nn.Module):
    """Linear substitute for a recurrent layer (GRU, LSTM, RNN) while a graph is read.

    It reads the same inputs at each step, and its outputs have the layer's shapes. Channels that depend on its outputs
    must not be cut.
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
        """Map (B, N, in), in the layer's order of dimensions, to outputs and last states of the layer's shapes."""
        made: Tensor = self.inside(x)
        last = made.mean(-2 if x.dim() == 2 else int(self.batch_first))
        hidden = torch.stack([last[..., : self.state]] * self.copies)
        if not self.pairs:
            return made, hidden
        return made, (hidden, hidden[..., :1].expand(*hidden.shape[:-1], self.memory))


def replace_recurrent(module: nn.Module) -> dict[nn.Module, str]:
    """Replace the recurrent layers of ``module`` in place; return the linear layers of the substitutes, with names."""
    found: dict[nn.Module, str] = {}
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.RNNBase):
            owner, _, leaf = name.rpartition(".")
            with seeded_torch(0, "stand-in"):
                made = RecurrentStandIn(layer)
            module.get_submodule(owner)._modules[leaf] = made
            found[made.inside] = name
    return found


def replace_transposed(module: nn.Module) -> None:
    """Replace Hugging Face's ``Conv1D`` layers by ordinary linear ones, in place."""
    for name, layer in list(module.named_modules()):
        if is_transposed_linear(layer):
            owner, _, leaf = name.rpartition(".")
            made = nn.Linear(inputs_of(layer), outputs_of(layer), device="meta")
            weight, made.bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            made.weight = nn.Parameter(weight.detach().T.contiguous())
            module.get_submodule(owner)._modules[leaf] = made
