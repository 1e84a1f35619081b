"""Least-squares reconstruction of layers after channel pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from nas_distill.data import Dataset
from nas_distill.data.splits import random_indices
from nas_distill.pruning.plan import KeptUnits, Plan, Slot
from nas_distill.pruning.slots import SlotTensor, named, tensors_of
from nas_distill.pruning.statistics import batch_norms, observe_inputs
from nas_distill.pruning.surgery import kept_indices
from nas_distill.utils.layers.transposed import is_linear

MAX_INPUTS = 4096
"""Largest number of inputs of a reconstructed layer; above it, the linear system takes too long to solve."""
POSITIONS = 256
"""Largest number of positions of a map or a sequence used per sample; neighbouring positions are much alike."""
RIDGE = 1e-2
"""Share of the inputs' mean variance (mean square, where no bias can take their mean) that is added to the diagonal.

A student's inputs are not quite the teacher's, and an ill-conditioned solution would amplify the difference. On trained
networks, shares from 1e-4 to 1e-2 tie or differ by half a point of accuracy before training; on untrained ones with
batch norm, the error of the logits grows as the share falls, up to twofold at 1e-4.
"""


@dataclass(frozen=True)
class Moments:
    """Moments of one layer's inputs, over samples and positions.

    Attributes:
        mean: (C,), float32, since a copy is sent to every worker.
        second: (C, C), the mean product of each pair of channels.
    """

    mean: Tensor
    second: Tensor


def input_moments(module: nn.Module, plan: Plan, data: Dataset, samples: int) -> dict[str, Moments]:
    """Return the moments of the inputs of every layer that can be reconstructed, by its dotted name.

    These are linear layers, convolutions (not grouped or transposed ones) and torch's self-attention that read channels
    of the plan's groups, have at most ``MAX_INPUTS`` inputs, and share their weight with no other layer.

    Args:
        module: the teacher; not changed.
        plan: its groups.
        data: the data set; only its training split is used.
        samples: number of training samples drawn.
    """
    sums = {name: _MomentSums() for name in _solvable(module, plan)}
    observe_inputs(module, data, samples, [(name, one.add) for name, one in sums.items()])
    return {name: one.moments() for name, one in sums.items() if one.usable}


def reconstruct(module: nn.Module, plan: Plan, kept: KeptUnits, moments: Mapping[str, Moments]) -> None:
    """Change the weights of kept inputs, in place, so that each layer's outputs change least when the others are cut.

    A layer with weights W reads inputs x, of which K are kept and D removed. The best linear estimate of x_D from x_K
    is A x_K, with A = E[x_D x_K^T] E[x_K x_K^T]^-1, so W_K + W_D A replaces W_K (as channel pruning reconstructs the
    maps of one layer: He et al., 2017, arXiv:1707.06168; here only from the teacher's moments, for any choice of K,
    without data). With a bias, the estimate is A x_K + b, and W_D b is added to the bias. A convolution without a bias,
    in a network with batch norm, is assumed to be followed by one, so that b has no effect once statistics are
    re-estimated. All kernel positions of a convolution have the same A. Layers that lose no inputs do not change.

    Args:
        module: a copy of the teacher, before it is pruned.
        plan: its groups.
        kept: the units that pruning will keep.
        moments: from ``input_moments``; layers without moments are not changed.
    """
    normed = bool(batch_norms([module]))
    cutting: dict[str, list[tuple[Slot, Sequence[int]]]] = {}
    for group in plan.groups:
        for slot in group.slots if group.name in kept.units else ():
            if slot.side == "in" and slot.module in moments:
                cutting.setdefault(slot.module, []).append((slot, kept.units[group.name]))
    for name, slots in cutting.items():
        (part,) = tensors_of(module, name, "in")
        size = part.tensor.shape[part.axis]
        indices = kept_indices(size, slots)
        removed = sorted(set(range(size)) - set(indices))
        if removed:
            _reconstruct_layer(part, indices, removed, moments[name], shift=normed and isinstance(part.owner, _ConvNd))


def _reconstruct_layer(part: SlotTensor, kept: list[int], removed: list[int], moments: Moments, *, shift: bool) -> None:
    """Reconstruct one layer, in place; ``shift``: its outputs may be off by a constant."""
    weight = part.tensor
    bias = getattr(part.owner, "in_proj_bias" if isinstance(part.owner, nn.MultiheadAttention) else "bias")
    second, mean = moments.second.double(), moments.mean.double()
    if shift or bias is not None:
        second = second - torch.outer(mean, mean)
    among = second[kept][:, kept]
    ridge = RIDGE * float(second.diagonal().mean()) + 1e-30
    estimate = torch.linalg.solve(among + ridge * torch.eye(len(kept), dtype=among.dtype), second[kept][:, removed]).T
    with torch.no_grad():
        new = weight.double().cpu().movedim(part.axis, -1)
        lost = new[..., removed]
        if bias is not None:
            missing = lost @ (mean[removed] - estimate @ mean[kept])
            bias += missing.reshape(len(missing), -1).sum(1).to(bias)
        new[..., kept] += lost @ estimate
        weight.copy_(new.movedim(-1, part.axis))


def _solvable(module: nn.Module, plan: Plan) -> list[str]:
    """Return the names of the layers that read units of the plan and can be reconstructed."""
    uses: dict[int, int] = {}
    for part in module.modules():
        for weight in part._parameters.values():
            uses[id(weight)] = uses.get(id(weight), 0) + 1
    reading = dict.fromkeys(slot.module for group in plan.groups for slot in group.slots if slot.side == "in")
    return [name for name in reading if _is_solvable(module, name, uses)]


def _is_solvable(module: nn.Module, name: str, uses: Mapping[int, int]) -> bool:
    layer = named(module, name)
    if isinstance(layer, nn.Parameter | _ConvTransposeNd):
        return False
    if not is_linear(layer) and not isinstance(layer, _ConvNd | nn.MultiheadAttention):
        return False
    if getattr(layer, "groups", 1) != 1:
        return False
    parts = tensors_of(module, name, "in")
    if len(parts) != 1 or not isinstance(parts[0].tensor, nn.Parameter):
        return False  # its weight is computed from others, or consists of several tensors
    part = parts[0]
    return part.tensor.shape[part.axis] <= MAX_INPUTS and uses[id(part.tensor)] == 1


class _MomentSums:
    """Running sums of one layer's inputs and of their products."""

    def __init__(self) -> None:
        self._refused = False
        self._count = 0
        self._sum = torch.zeros(())
        self._products = torch.zeros(())

    @property
    def usable(self) -> bool:
        """The layer was called, always in a supported way."""
        return self._count > 0 and not self._refused

    def add(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """Add the inputs of one forward pass of a layer (an ``InputObserver``)."""
        if not args or (isinstance(layer, nn.MultiheadAttention) and not args[0] is args[1] is args[2]):
            self._refused = True  # queries, keys and values differ, so they have no common moments
            return
        input = args[0].detach()
        if isinstance(layer, _ConvNd):
            input = input.movedim(-1 - len(layer.kernel_size), -1)
        rows = input.flatten(1, -2) if input.dim() > 2 else input[:, None]
        rows = rows[:, random_indices(rows.shape[1], POSITIONS)].flatten(0, 1).double()
        self._count += len(rows)
        self._sum = self._sum + rows.sum(0).cpu()
        self._products = self._products + (rows.T @ rows).cpu()

    def moments(self) -> Moments:
        return Moments((self._sum / self._count).float(), (self._products / self._count).float())
