"""Modules of all alternatives, pruned from the teacher with inherited weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nas_distill.blockwise.alternatives import Alternative, Alternatives
from nas_distill.blockwise.block_calls import BlockRecorder
from nas_distill.blockwise.channels import axis_of
from nas_distill.pruning.inheritance import WeightInheritance
from nas_distill.pruning.plan import DROPPED, UNPRUNED, Plan
from nas_distill.utils.errors import SpaceError
from nas_distill.utils.modules import memory_format, place
from nas_distill.utils.seeds import seeded_torch

_WITHOUT_FRESH = (UNPRUNED, DROPPED)


def make_modules(alternatives: Alternatives, inheritance: WeightInheritance, *, seed: int) -> dict[str, nn.Module]:
    """Return the module of each alternative by its key, with inherited weights.

    Each is a part of a pruned teacher, so that its channels are those of such a student. The weights of replacements
    are random, seeded by ``seed``.

    Raises:
        SpaceError: the input or output of a pruned block has other channels than the plan states.
    """
    found: dict[str, nn.Module] = {}
    waiting = list(alternatives.entries)
    while waiting:
        chosen, widths = _compatible(alternatives, waiting)
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
    """The teacher's channels (K,) in an alternative's input and in its output; None for all channels."""

    input: Tensor | None
    output: Tensor | None


def kept_channels(alternatives: Alternatives, inheritance: WeightInheritance) -> dict[str, Ends]:
    """Return the channels in the input and output of each alternative by its key."""
    found = {}
    for entry in alternatives.entries:
        block = alternatives.plan.blocks[entry.block]
        cut = alternatives.partial_cut({}, alternatives.widths(entry))
        units = cut.units(alternatives.plan, inheritance.orders).units
        boundaries = ((block.input, block.inputs), (block.output, block.outputs))
        found[entry.key] = Ends(*(channels_of(alternatives.plan, units, *one) for one in boundaries))
    return found


def channels_of(plan: Plan, keep: Mapping[str, Sequence[int]], group: str | None, channels: int) -> Tensor | None:
    """Return the channels of the kept units of a group, whose units have consecutive runs of equal length."""
    if group is None or group not in keep:
        return None
    run = channels // plan.group(group).size
    return torch.tensor([unit * run + offset for unit in keep[group] for offset in range(run)])


def _compatible(
    alternatives: Alternatives, waiting: list[Alternative]
) -> tuple[dict[int, Alternative], dict[str, int]]:
    """Return alternatives of as many blocks as agree on the shared widths, so that one cut makes them all.

    One with random weights is returned by itself, so that its weights do not depend on other alternatives.
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
    """Run a pruned network, and compare the channels of its blocks' inputs and outputs with the plan's."""
    plan = alternatives.plan
    ends = kept_channels(replace(alternatives, entries=tuple(chosen.values())), inheritance)
    x, _ = inheritance.data.batch("train", torch.arange(min(2, len(inheritance.data.train))))
    with BlockRecorder(network.eval(), [plan.blocks[block].module for block in chosen]) as recorder:
        _, calls = recorder.run(x)
    for (index, entry), call in zip(chosen.items(), calls):
        block = plan.blocks[index]
        axis = axis_of(block.tokens)
        for side, kept, tensor in (
            ("input", ends[entry.key].input, call.input),
            ("output", ends[entry.key].output, call.output),
        ):
            if kept is not None and tensor.shape[axis] != len(kept):
                raise SpaceError(
                    f"the {side} of block '{block.module}' has {tensor.shape[axis]} channels instead of {len(kept)}, "
                    "so the block cannot be distilled separately; name other blocks, as in space: "
                    "{from_teacher: {blocks: [...]}}."
                )
