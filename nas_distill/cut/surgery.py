"""Cutting a network: slicing weights, setting what says how many there are, and replacing blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nas_distill.common.errors import SpaceError
from nas_distill.cut.attention import NarrowedAttention, as_encoder_layer, forgo_nested
from nas_distill.cut.kinds import make_kind
from nas_distill.cut.plan import Group, Plan, Side, Slot
from nas_distill.cut.resize import resize
from nas_distill.cut.shortcuts import rewrite
from nas_distill.cut.skip import Skip
from nas_distill.cut.weights import length, named, parts_of


@dataclass(frozen=True)
class Cut:
    """What is kept of a teacher.

    Attributes:
        keep: for a group's name the units that stay, in the order that they have in the student; all, if missing.
        kinds: for a block's index ``drop``, or a cheaper kind (see ``cut/kinds.py``); left as it is, if missing.
    """

    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    kinds: Mapping[int, str] = field(default_factory=dict)


def cut(module: nn.Module, plan: Plan, what: Cut) -> nn.Module:
    """Cut ``module``, in place, and return it.

    Kept weights are copies of the teacher's. Modules that stand in for blocks draw theirs from torch's global
    generator, which the caller seeds. Where nothing is cut, the module is left as it is, but for the plan's rewrites.

    Args:
        module: a copy of the teacher that ``plan`` was found for, or of its structure.
        plan: what can be cut.
        what: what is kept.

    Raises:
        SpaceError: there is no such group, unit, block or kind, or nothing of a group would be left.
    """
    rewrite(module, plan.rewrites)
    narrowed = {name: units for name, units in what.keep.items() if _checked(plan.group(name), units)}
    _slice(module, plan, narrowed)
    if what.kinds or any(isinstance(part, NarrowedAttention) for part in module.modules()):
        forgo_nested(module)
    for index, kind in what.kinds.items():
        if kind != "whole":
            _replace(module, plan, index, kind, narrowed)
    return module


def _checked(group: Group, units: Sequence[int]) -> bool:
    """Say whether anything of a group is cut or moved."""
    if not units or len(set(units)) != len(units) or min(units) < 0 or max(units) >= group.size:
        raise SpaceError(
            f"group '{group.name}' has the units 0 to {group.size - 1}; it cannot be cut to {list(units)}."
        )
    return tuple(units) != tuple(range(group.size))


def _slice(module: nn.Module, plan: Plan, narrowed: Mapping[str, Sequence[int]]) -> None:
    governed: dict[tuple[str, Side], list[tuple[Slot, Sequence[int]]]] = {}
    for name, units in narrowed.items():
        for slot in plan.group(name).slots:
            governed.setdefault((slot.module, slot.side), []).append((slot, units))
    _make_room(module, [name for name, _ in governed])
    tied: dict[tuple[int, int, tuple[int, ...]], Tensor] = {}
    keep_alive = []  # so that no other tensor gets the id of one that was replaced
    for (name, side), slots in governed.items():
        places = kept_places(length(module, name, side), slots)
        for part in parts_of(module, name, side):
            old = part.tensor
            keep_alive.append(old)
            key = id(old), part.axis, tuple(places)
            if key not in tied:  # modules that share a weight go on to share it
                new = old.detach().index_select(part.axis, torch.tensor(places, device=old.device))
                tied[key] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
            setattr(part.owner, part.name, tied[key])
        found = named(module, name)
        if isinstance(found, nn.Module):
            resize(found, side, len(places))


def _make_room(module: nn.Module, names: Sequence[str]) -> None:
    """Put attention of other shapes than torch's own class has where such is to be cut."""
    for name in dict.fromkeys(names):
        found = named(module, name)
        if type(found) is nn.MultiheadAttention:
            owner, _, leaf = name.rpartition(".")
            module.get_submodule(owner)._modules[leaf] = NarrowedAttention.of(found)


def kept_places(size: int, slots: Sequence[tuple[Slot, Sequence[int]]]) -> list[int]:
    """Return which places of a dimension of ``size`` stay, in their new order.

    ``slots`` are those on the dimension whose groups are cut, with the units that stay. A unit that is kept as the
    n-th is put where the n-th of the kept ones was, so that what lies around and between them keeps its order.
    """
    gone: set[int] = set()
    moved: dict[int, int] = {}
    for slot, units in slots:
        staying = set(units)
        gone.update(place for unit, places in enumerate(slot.places) if unit not in staying for place in places)
        for stands, comes in zip(sorted(units), units):
            moved.update(zip(slot.places[stands], slot.places[comes]))
    return [moved.get(place, place) for place in range(size) if place not in gone]


def _replace(module: nn.Module, plan: Plan, index: int, kind: str, narrowed: Mapping[str, Sequence[int]]) -> None:
    if not 0 <= index < len(plan.blocks):
        raise SpaceError(f"the teacher has {len(plan.blocks)} blocks, counted from 0; there is none of index {index}.")
    block = plan.blocks[index]
    new: nn.Module
    if kind == "drop":
        if not block.droppable:
            raise SpaceError(f"block {index} ('{block.module}') cannot be dropped: it changes shape or channels.")
        new = Skip(block.wrapped)
    else:

        def width(group: str | None, own: int) -> int:
            if group is None or group not in narrowed:
                return own
            return own * len(narrowed[group]) // plan.group(group).size

        new = make_kind(kind, block, width(block.input, block.inputs), width(block.output, block.outputs))
    owner, _, name = block.module.rpartition(".")
    holder = module.get_submodule(owner)
    old = holder.get_submodule(name)
    like = next(old.parameters(), None)
    if like is not None:
        new = new.to(device=like.device, dtype=like.dtype)
    holder._modules[name] = as_encoder_layer(new.train(old.training), old)
