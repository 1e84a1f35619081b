"""Which tensors of a module a slot governs, and along which dimension."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nas_distill.cut.plan import Side, Slot
from nas_distill.cut.resize import size_of


@dataclass(frozen=True)
class Part:
    """A tensor, found as attribute ``name`` of ``owner``, one of whose dimensions a slot governs."""

    owner: nn.Module
    name: str
    axis: int

    @property
    def tensor(self) -> Tensor:
        """The parameter or buffer itself."""
        found = getattr(self.owner, self.name)
        assert isinstance(found, Tensor)
        return found


def weights_of(module: nn.Module, slot: Slot) -> list[tuple[Tensor, int]]:
    """Return the parameters that ``slot`` governs (no buffers), each with the dimension in question."""
    parts = parts_of(module, slot.module, slot.side)
    return [(part.tensor, part.axis) for part in parts if isinstance(part.tensor, nn.Parameter)]


def by_unit(values: Tensor, axis: int, slot: Slot) -> Tensor:
    """Sum ``values`` over all but the units of ``slot``, which lie along ``axis``; returns (units,)."""
    along = values.movedim(axis, 0).flatten(1).sum(1) if values.dim() > 1 else values
    places = torch.tensor([place for unit in slot.indices for place in unit], device=values.device)
    unit = torch.tensor([index for index, unit in enumerate(slot.indices) for _ in unit], device=values.device)
    return torch.zeros(len(slot.indices), dtype=along.dtype, device=values.device).index_add(0, unit, along[places])


def parts_of(root: nn.Module, name: str, side: Side) -> list[Part]:
    """Return the parameters and buffers that have the channels of one side of a module; none for what is not known."""
    owner, _, leaf = name.rpartition(".")
    found = named(root, name)
    if isinstance(found, nn.Parameter):
        return [Part(root.get_submodule(owner), leaf, last_long(found))]
    return [
        Part(found, attribute, axis)
        for attribute, axis in _table(found, side)
        if isinstance(getattr(found, attribute, None), Tensor)
    ]


def length(root: nn.Module, name: str, side: Side) -> int:
    """Return how many channels (or heads) one side of a module or parameter has; 0 for what is not known."""
    found = named(root, name)
    return found.shape[last_long(found)] if isinstance(found, nn.Parameter) else size_of(found, side)


def named(root: nn.Module, name: str) -> nn.Module | nn.Parameter:
    """Return the module or the parameter of a dotted name.

    Raises:
        AttributeError: there is none.
    """
    owner, _, leaf = name.rpartition(".")
    holder = root.get_submodule(owner)
    weight = holder._parameters.get(leaf)
    return root.get_submodule(name) if weight is None else weight


def last_long(weight: Tensor) -> int:
    """Return the last dimension longer than 1, counted from 0; the last of all if there is none."""
    return max((axis for axis, size in enumerate(weight.shape) if size > 1), default=max(weight.dim() - 1, 0))


def _table(module: nn.Module, side: Side) -> list[tuple[str, int]]:
    if isinstance(module, nn.MultiheadAttention):
        return [("in_proj_weight", 1)] if side == "in" else [("in_proj_weight", 0), ("in_proj_bias", 0)]
    if isinstance(module, _ConvTransposeNd):
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
