"""Modules of all alternatives, pruned from the teacher with its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas_distill.blockwise.alternatives import Alternative, Alternatives
from nas_distill.blockwise.channels import axis_of
from nas_distill.blockwise.watching import Watch
from nas_distill.pruning.inheritance import WeightInheritance
from nas_distill.pruning.plan import DROPPED, UNPRUNED, Plan
from nas_distill.utils.errors import SpaceError
from nas_distill.utils.modules import memory_format, place
from nas_distill.utils.seeds import seeded_torch

_WITHOUT_FRESH = (UNPRUNED, DROPPED)


def grow(alternatives: Alternatives, inheritance: WeightInheritance, *, seed: int) -> dict[str, nn.Module]:
    """Return the module of each alternative by its key, with inherited weights; what is fresh is seeded by ``seed``.

    Each is cut as a whole student would be, so that its channels are those that such a student has.

    Raises:
        SpaceError: a cut block is given or returns other channels than the plan says.
    """
    found: dict[str, nn.Module] = {}
    waiting = list(alternatives.entries)
    while waiting:
        chosen, widths = _together(alternatives, waiting)
        with seeded_torch(seed, "alternative", waiting[0].key):
            network = inheritance.pruned_teacher(alternatives.partial_cut(chosen, widths))
        _check(alternatives, inheritance, network, chosen)
        for block, entry in chosen.items():
            module = copy.deepcopy(network.get_submodule(alternatives.plan.blocks[block].module))
            found[entry.key] = place(module, "cpu", memory_format(module))
            waiting.remove(entry)
    return {entry.key: found[entry.key] for entry in alternatives.entries}


@dataclass(frozen=True)
class Ends:
    """The teacher's channels (K,) that an alternative is given, and those that it returns; None for all of them."""

    given: Tensor | None
    made: Tensor | None


def kept_channels(alternatives: Alternatives, inheritance: WeightInheritance) -> dict[str, Ends]:
    """Return the channels at the ends of each alternative by its key."""
    found = {}
    for entry in alternatives.entries:
        block = alternatives.plan.blocks[entry.block]
        cut = alternatives.partial_cut({}, alternatives.widths(entry))
        units = cut.units(alternatives.plan, inheritance.orders).units
        given, made = ((block.input, block.inputs), (block.output, block.outputs))
        found[entry.key] = Ends(*(channels_of(alternatives.plan, units, *end) for end in (given, made)))
    return found


def channels_of(plan: Plan, keep: Mapping[str, Sequence[int]], group: str | None, channels: int) -> Tensor | None:
    """Return the channels of the kept units of a group; its units have equal runs of channels, one after the other."""
    if group is None or group not in keep:
        return None
    run = channels // plan.group(group).size
    return torch.tensor([unit * run + place for unit in keep[group] for place in range(run)])


def _together(alternatives: Alternatives, waiting: list[Alternative]) -> tuple[dict[int, Alternative], dict[str, int]]:
    """Return one alternative for as many blocks as agree on the shared widths, so that one cut makes them all.

    One with fresh weights comes alone, so that they do not depend on what is cut beside it.
    """
    first = waiting[0]
    chosen, widths = {first.block: first}, alternatives.widths(first)
    for entry in waiting if first.replacement in _WITHOUT_FRESH else ():
        needed = alternatives.widths(entry)
        agrees = all(widths.get(group, width) == width for group, width in needed.items())
        if entry.block not in chosen and agrees and entry.replacement in _WITHOUT_FRESH:
            chosen[entry.block] = entry
            widths.update(needed)
    return chosen, widths


def _check(
    alternatives: Alternatives, inheritance: WeightInheritance, network: nn.Module, chosen: Mapping[int, Alternative]
) -> None:
    """Run a cut network, and hold the channels at its blocks' ends against the plan's."""
    plan = alternatives.plan
    ends = kept_channels(replace(alternatives, entries=tuple(chosen.values())), inheritance)
    x, _ = inheritance.data.batch("train", torch.arange(min(2, len(inheritance.data.train))))
    with Watch(network.eval(), [plan.blocks[block].module for block in chosen]) as watch:
        _, passages = watch.run(x)
    for (index, entry), passage in zip(chosen.items(), passages):
        block = plan.blocks[index]
        axis = axis_of(block.tokens)
        for word, kept, tensor in (
            ("is given", ends[entry.key].given, passage.given),
            ("returns", ends[entry.key].made, passage.made),
        ):
            if kept is not None and tensor.shape[axis] != len(kept):
                raise SpaceError(
                    f"block '{block.module}' {word} {tensor.shape[axis]} channels where {len(kept)} were kept, so it "
                    "cannot be distilled apart; name other blocks, as in space: {from_teacher: {blocks: [...]}}."
                )
