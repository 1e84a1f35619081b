"""Least-squares reconstruction of layers after channel pruning, from the inputs that they lose and keep."""

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
from nas_distill.pruning.slots import Part, named, parts_of
from nas_distill.pruning.statistics import batch_norms, show_inputs
from nas_distill.pruning.surgery import kept_indices

WIDEST = 4096
"""Inputs above which a layer's second moments take too long to solve for; it is cut without a reconstruction."""
POSITIONS = 256
"""Positions of a map, or of a sequence, that are looked at for each sample; neighbours tell much the same."""
RIDGE = 1e-2
"""Share of the inputs' mean variance (mean square, where no bias can take their mean) that is added to the diagonal.

A student's inputs are not quite the teacher's, and what is guessed from inputs that hardly differ would blow that up.
On trained networks shares from 1e-4 to 1e-2 tie, or differ by half a point of accuracy before training; on untrained
ones with batch norm the error of the logits grows as the share falls, up to twofold at 1e-4.
"""


@dataclass(frozen=True)
class Moments:
    """Of one layer's inputs, over samples and positions.

    Attributes:
        mean: (C,), float32 as a copy goes to every worker.
        second: (C, C), the mean product of each two.
    """

    mean: Tensor
    second: Tensor


def input_moments(module: nn.Module, plan: Plan, data: Dataset, samples: int) -> dict[str, Moments]:
    """Return the moments of the inputs of every layer that can make up for inputs that it loses, by its dotted name.

    These are linear layers, convolutions (not grouped or transposed ones) and torch's self-attention, which read
    channels of the plan's groups, have at most ``WIDEST`` of them, and share their weight with no other layer.

    Args:
        module: the teacher; left as it is.
        plan: its groups.
        data: of its training split ``samples`` are looked at.
        samples: how many.
    """
    sums = {name: _Sums() for name in _solvable(module, plan)}
    show_inputs(module, data, samples, [(name, one.add) for name, one in sums.items()])
    return {name: one.moments() for name, one in sums.items() if one.usable}


def reconstruct(module: nn.Module, plan: Plan, kept: KeptUnits, moments: Mapping[str, Moments]) -> None:
    """Give kept inputs the weights, in place, by which each layer's outputs change least once the others are cut.

    A layer of weights W reads inputs x, of which K stay and D go. The best linear guess of x_D from x_K is A x_K, with
    A = E[x_D x_K^T] E[x_K x_K^T]^-1; so W_K + W_D A takes the place of W_K (as channel pruning reconstructs the maps of
    one layer: He et al., 2017, arXiv:1707.06168; here only from the teacher's moments, for any choice of K, without a
    look at data). With a bias the guess is A x_K + b, and b goes into it; a convolution without one, in a network with
    batch norm, is taken to be followed by it, so that b does not matter once statistics are re-estimated. Of a
    convolution every position of the kernel has the same A. Nothing changes where nothing is cut.

    Args:
        module: a copy of the teacher, about to be cut.
        plan: its groups.
        kept: what pruning will keep of it.
        moments: of ``input_moments``; layers that have none are left as they are.
    """
    normed = bool(batch_norms([module]))
    cutting: dict[str, list[tuple[Slot, Sequence[int]]]] = {}
    for group in plan.groups:
        for slot in group.slots if group.name in kept.units else ():
            if slot.side == "in" and slot.module in moments:
                cutting.setdefault(slot.module, []).append((slot, kept.units[group.name]))
    for name, slots in cutting.items():
        (part,) = parts_of(module, name, "in")
        size = part.tensor.shape[part.axis]
        indices = kept_indices(size, slots)
        gone = sorted(set(range(size)) - set(indices))
        if gone:
            _make_up(part, indices, gone, moments[name], shift=normed and isinstance(part.owner, _ConvNd))


def _make_up(part: Part, kept: list[int], gone: list[int], moments: Moments, *, shift: bool) -> None:
    """Change one layer; ``shift``: its outputs may be off by a constant."""
    weight = part.tensor
    bias = getattr(part.owner, "in_proj_bias" if isinstance(part.owner, nn.MultiheadAttention) else "bias")
    second, mean = moments.second.double(), moments.mean.double()
    if shift or bias is not None:
        second = second - torch.outer(mean, mean)
    among = second[kept][:, kept]
    ridge = RIDGE * float(second.diagonal().mean()) + 1e-30
    guess = torch.linalg.solve(among + ridge * torch.eye(len(kept), dtype=among.dtype), second[kept][:, gone]).T
    with torch.no_grad():
        read = weight.double().cpu().movedim(part.axis, -1)
        lost = read[..., gone]
        if bias is not None:
            missing = lost @ (mean[gone] - guess @ mean[kept])
            bias += missing.reshape(len(missing), -1).sum(1).to(bias)
        read[..., kept] += lost @ guess
        weight.copy_(read.movedim(-1, part.axis))


def _solvable(module: nn.Module, plan: Plan) -> list[str]:
    """Return the names of the layers that read units of the plan and can make up for those that they lose."""
    uses: dict[int, int] = {}
    for part in module.modules():
        for weight in part._parameters.values():
            uses[id(weight)] = uses.get(id(weight), 0) + 1
    reading = dict.fromkeys(slot.module for group in plan.groups for slot in group.slots if slot.side == "in")
    return [name for name in reading if _is_solvable(module, name, uses)]


def _is_solvable(module: nn.Module, name: str, uses: Mapping[int, int]) -> bool:
    layer = named(module, name)
    if not isinstance(layer, _ConvNd | nn.Linear | nn.MultiheadAttention) or isinstance(layer, _ConvTransposeNd):
        return False
    if getattr(layer, "groups", 1) != 1:
        return False
    parts = parts_of(module, name, "in")
    if len(parts) != 1 or not isinstance(parts[0].tensor, nn.Parameter):
        return False  # its weight is computed of others, or is several ones
    part = parts[0]
    return part.tensor.shape[part.axis] <= WIDEST and uses[id(part.tensor)] == 1


class _Sums:
    """Adds up what one layer is given."""

    def __init__(self) -> None:
        self._refused = False
        self._count = 0
        self._sum = torch.zeros(())
        self._products = torch.zeros(())

    @property
    def usable(self) -> bool:
        """Whether the layer was run, and always as it has to be."""
        return self._count > 0 and not self._refused

    def add(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """Be the hook before a layer's forward pass."""
        if not args or (isinstance(layer, nn.MultiheadAttention) and not args[0] is args[1] is args[2]):
            self._refused = True  # queries, keys and values are not of one kind
            return
        given = args[0].detach()
        if isinstance(layer, _ConvNd):
            given = given.movedim(-1 - len(layer.kernel_size), -1)
        rows = given.flatten(1, -2) if given.dim() > 2 else given[:, None]
        rows = rows[:, random_indices(rows.shape[1], POSITIONS)].flatten(0, 1).double()
        self._count += len(rows)
        self._sum = self._sum + rows.sum(0).cpu()
        self._products = self._products + (rows.T @ rows).cpu()

    def moments(self) -> Moments:
        return Moments((self._sum / self._count).float(), (self._products / self._count).float())
