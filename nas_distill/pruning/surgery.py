"""Structured pruning of a network: weights are sliced, size attributes updated, and blocks replaced."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nas_distill.pruning.attention import NarrowedAttention, as_encoder_layer, disable_nested_tensors
from nas_distill.pruning.plan import DROPPED, UNPRUNED, Group, KeptUnits, Plan, Side, Slot
from nas_distill.pruning.replacements import Skip, make_replacement
from nas_distill.pruning.shortcuts import rewrite
from nas_distill.pruning.slots import length, named, resize, tensors_of
from nas_distill.utils.errors import SpaceError


def prune(module: nn.Module, plan: Plan, kept: KeptUnits) -> nn.Module:
    """Prune ``module``, in place, and return it.

    Kept weights are copies of the teacher's. Replacements of blocks draw theirs from torch's global generator, which
    the caller seeds. If everything is kept, only the plan's rewrites change the module.

    Args:
        module: a copy of the teacher that ``plan`` was found for, or of its structure.
        plan: the pruning plan.
        kept: the units and blocks that are kept.

    Raises:
        SpaceError: a group, unit, block or replacement does not exist, or a group would keep no units.
    """
    rewrite(module, plan.rewrites)
    narrowed = {name: units for name, units in kept.units.items() if _checked(plan.group(name), units)}
    _slice(module, plan, narrowed)
    if kept.replacements or any(isinstance(part, NarrowedAttention) for part in module.modules()):
        disable_nested_tensors(module)
    for index, name in kept.replacements.items():
        if name != UNPRUNED:
            _replace(module, plan, index, name, narrowed)
    return module


def structure_of(module: nn.Module) -> nn.Module:
    """Return a copy of a module's structure that shares its tensors, which pruning replaces and does not change."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _checked(group: Group, units: Sequence[int]) -> bool:
    """Say whether pruning a group to ``units`` removes or moves anything.

    Raises:
        SpaceError: ``units`` is empty, has duplicates, or units that do not exist.
    """
    if not units or len(set(units)) != len(units) or min(units) < 0 or max(units) >= group.size:
        raise SpaceError(
            f"group '{group.name}' cannot be cut to {list(units)}; give different units from 0 to {group.size - 1}."
        )
    return tuple(units) != tuple(range(group.size))


def _slice(module: nn.Module, plan: Plan, narrowed: Mapping[str, Sequence[int]]) -> None:
    governed: dict[tuple[str, Side], list[tuple[Slot, Sequence[int]]]] = {}
    for name, units in narrowed.items():
        for slot in plan.group(name).slots:
            governed.setdefault((slot.module, slot.side), []).append((slot, units))
    _replace_attentions(module, [name for name, _ in governed])
    tied: dict[tuple[int, int, tuple[int, ...]], Tensor] = {}
    keep_alive = []  # so that the id of a replaced tensor is not used again
    for (name, side), slots in governed.items():
        indices = kept_indices(length(module, name, side), slots)
        for part in tensors_of(module, name, side):
            old = part.tensor
            keep_alive.append(old)
            key = id(old), part.axis, tuple(indices)
            if key not in tied:  # modules that share a weight continue to share it
                new = old.detach().index_select(part.axis, torch.tensor(indices, device=old.device))
                tied[key] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
            setattr(part.owner, part.name, tied[key])
        found = named(module, name)
        if isinstance(found, nn.Module):
            resize(found, side, len(indices))


def _replace_attentions(module: nn.Module, names: Sequence[str]) -> None:
    """Replace torch attentions among ``names``, in place, by ones whose heads can be cut."""
    for name in dict.fromkeys(names):
        found = named(module, name)
        if type(found) is nn.MultiheadAttention:
            owner, _, leaf = name.rpartition(".")
            module.get_submodule(owner)._modules[leaf] = NarrowedAttention.of(found)


def kept_indices(size: int, slots: Sequence[tuple[Slot, Sequence[int]]]) -> list[int]:
    """Return the kept indices of a dimension of ``size``, in their new order.

    ``slots`` are the slots of that dimension whose groups are cut, with their kept units. The n-th of the given units
    takes the position of the n-th kept unit in the teacher, so that indices around and between them keep their order.
    """
    removed: set[int] = set()
    moved: dict[int, int] = {}
    for slot, units in slots:
        kept = set(units)
        removed.update(index for unit, indices in enumerate(slot.indices) if unit not in kept for index in indices)
        for position, unit in zip(sorted(units), units):
            moved.update(zip(slot.indices[position], slot.indices[unit]))
    return [moved.get(index, index) for index in range(size) if index not in removed]


def _replace(module: nn.Module, plan: Plan, index: int, name: str, narrowed: Mapping[str, Sequence[int]]) -> None:
    if not 0 <= index < len(plan.blocks):
        raise SpaceError(f"the teacher has no block {index}; it has {len(plan.blocks)} blocks, counted from 0.")
    block = plan.blocks[index]
    new: nn.Module
    if name == DROPPED:
        if not block.droppable:
            raise SpaceError(f"block {index} ('{block.module}') cannot be dropped: it changes shape or channels.")
        new = Skip(block.wrapped)
    else:

        def width(group: str | None, own: int) -> int:
            if group is None or group not in narrowed:
                return own
            return own * len(narrowed[group]) // plan.group(group).size

        new = make_replacement(name, block, width(block.input, block.inputs), width(block.output, block.outputs))
    owner, _, leaf = block.module.rpartition(".")
    holder = module.get_submodule(owner)
    old = holder.get_submodule(leaf)
    like = next(old.parameters(), None)
    if like is not None:
        new = new.to(device=like.device, dtype=like.dtype)
    holder._modules[leaf] = as_encoder_layer(new.train(old.training), old)
