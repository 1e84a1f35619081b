"""Slots of layers: the tensors that they govern, and the attributes that store numbers of channels and heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nas_distill.pruning.plan import Side, Slot
from nas_distill.utils.layers.transposed import inputs_of, is_linear, is_transposed_linear, outputs_of


@dataclass(frozen=True)
class SlotTensor:
    """A tensor with a dimension that a slot governs: attribute ``name`` of ``owner``, and the dimension ``axis``."""

    owner: nn.Module
    name: str
    axis: int

    @property
    def tensor(self) -> Tensor:
        """The parameter or buffer."""
        found = getattr(self.owner, self.name)
        assert isinstance(found, Tensor)
        return found


def weights_of(module: nn.Module, slot: Slot) -> list[tuple[Tensor, int]]:
    """Return the parameters that ``slot`` governs (without buffers), each with its governed dimension."""
    parts = tensors_of(module, slot.module, slot.side)
    return [(part.tensor, part.axis) for part in parts if isinstance(part.tensor, nn.Parameter)]


def by_unit(values: Tensor, axis: int, slot: Slot) -> Tensor:
    """Return the sums (units,) of ``values`` per unit of ``slot``, whose indices lie along ``axis``."""
    along = values.movedim(axis, 0).flatten(1).sum(1) if values.dim() > 1 else values
    indices = torch.tensor([index for unit in slot.indices for index in unit], device=values.device)
    unit = torch.tensor([index for index, unit in enumerate(slot.indices) for _ in unit], device=values.device)
    return torch.zeros(len(slot.indices), dtype=along.dtype, device=values.device).index_add(0, unit, along[indices])


def tensors_of(root: nn.Module, name: str, side: Side) -> list[SlotTensor]:
    """Return the parameters and buffers with the channels of one side of a module; none for an unknown module."""
    owner, _, leaf = name.rpartition(".")
    found = named(root, name)
    if isinstance(found, nn.Parameter):
        return [SlotTensor(root.get_submodule(owner), leaf, last_long(found))]
    return [
        SlotTensor(found, attribute, axis)
        for attribute, axis in _table(found, side)
        if isinstance(getattr(found, attribute, None), Tensor)
    ]


def length(root: nn.Module, name: str, side: Side) -> int:
    """Return the number of channels (or heads) on one side of a module or parameter; 0 if it is unknown."""
    found = named(root, name)
    return found.shape[last_long(found)] if isinstance(found, nn.Parameter) else size_of(found, side)


def named(root: nn.Module, name: str) -> nn.Module | nn.Parameter:
    """Return the module or the parameter with a dotted name.

    Raises:
        AttributeError: the network has neither.
    """
    owner, _, leaf = name.rpartition(".")
    holder = root.get_submodule(owner)
    weight = holder._parameters.get(leaf)
    return root.get_submodule(name) if weight is None else weight


def last_long(weight: Tensor) -> int:
    """Return the last dimension longer than 1, counted from 0; the last dimension if all are of length 1."""
    return max((axis for axis, size in enumerate(weight.shape) if size > 1), default=max(weight.dim() - 1, 0))


def _table(module: nn.Module, side: Side) -> list[tuple[str, int]]:
    if isinstance(module, nn.MultiheadAttention):
        return [("in_proj_weight", 1)] if side == "in" else [("in_proj_weight", 0), ("in_proj_bias", 0)]
    if isinstance(module, _ConvTransposeNd) or is_transposed_linear(module):
        return [("weight", 0)] if side == "in" else [("weight", 1), ("bias", 0)]
    if isinstance(module, _ConvNd | nn.Linear):
        return [("weight", 1)] if side == "in" else [("weight", 0), ("bias", 0)]
    if isinstance(module, _NormBase):
        return [("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)]
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        last = len(module.normalized_shape) - 1
        return [("weight", last), ("bias", last)]
    if isinstance(module, nn.GroupNorm | nn.PReLU):
        return [("weight", 0), ("bias", 0)]
    if isinstance(module, nn.Embedding):
        return [("weight", 1)]
    if isinstance(module, nn.RNNBase):
        return [("weight_ih_l0", 1), ("weight_ih_l0_reverse", 1)] if side == "in" else []
    return []


_COUNTS = ("num_heads", "num_attention_heads", "num_key_value_heads", "n_heads", "n_head", "nheads", "heads")
_WIDTHS = ("all_head_size", "inner_dim", "attn_dim", "split_size")


def size_of(module: nn.Module, side: Side) -> int:
    """Return the number of channels (or heads) on one side of a module; 0 if it is unknown."""
    if isinstance(module, nn.MultiheadAttention):
        result: int = module.embed_dim if side == "in" else 3 * module.num_heads * module.head_dim
        return result
    if isinstance(module, _ConvNd):
        return module.in_channels if side == "in" else module.out_channels
    if is_linear(module):
        return inputs_of(module) if side == "in" else outputs_of(module)
    if isinstance(module, _NormBase):
        return module.num_features
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return module.normalized_shape[-1]
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, nn.PReLU):
        return module.num_parameters
    if isinstance(module, nn.Embedding):
        return module.embedding_dim
    if isinstance(module, nn.RNNBase):
        return (
            module.input_size if side == "in" else (1 + module.bidirectional) * (module.proj_size or module.hidden_size)
        )
    return heads_of(module)


def resize(module: nn.Module, side: Side, left: int) -> None:
    """Set the attributes of a module to the ``left`` channels (or heads) that one of its sides has now."""
    if isinstance(module, nn.MultiheadAttention):
        if side == "in":
            module.embed_dim = module.kdim = module.vdim = left
        else:
            module.num_heads = left // (3 * module.head_dim)
    elif isinstance(module, _ConvNd):
        _convolution(module, side, left)
    elif isinstance(module, nn.Linear):
        setattr(module, "in_features" if side == "in" else "out_features", left)
    elif is_transposed_linear(module):
        setattr(module, "nx" if side == "in" else "nf", left)
    elif isinstance(module, _NormBase):
        module.num_features = left
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.normalized_shape = (*module.normalized_shape[:-1], left)
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups > 1:  # whole groups are cut, so each keeps its number of channels
            module.num_groups = left * module.num_groups // module.num_channels
        module.num_channels = left
    elif isinstance(module, nn.PReLU):
        module.num_parameters = left
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = left
    elif isinstance(module, nn.RNNBase):
        module.input_size = left
    else:
        _heads(module, left)


def heads_of(module: nn.Module) -> int:
    """Return the number of heads that a module's attributes state, the least one; 0 if there are none.

    Queries may have a multiple of the heads of keys; other counts disagree, and give 0.
    """
    counts = {getattr(module, name) for name in _COUNTS if type(getattr(module, name, None)) is int}
    least = min(counts, default=0)
    return least if least > 0 and not any(count % least for count in counts) else 0


def _heads(module: nn.Module, left: int) -> None:
    heads = heads_of(module)
    for name in (*_WIDTHS, *_COUNTS):
        if type(number := getattr(module, name, None)) is int:
            setattr(module, name, number * left // heads)


def _convolution(module: _ConvNd, side: Side, left: int) -> None:
    if side == "in":
        module.in_channels = left
    elif module.groups == 1:
        module.out_channels = left
    else:  # whole groups are cut
        module.in_channels = module.in_channels * left // module.out_channels
        module.groups = module.groups * left // module.out_channels
        module.out_channels = left
