"""Finding what can be cut from a network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from nas_distill.common.errors import SpaceError, TrainingError, first_line
from nas_distill.common.layers.calls import Recording, record
from nas_distill.common.seeds import torch_generator
from nas_distill.cut.atoms import Atoms
from nas_distill.cut.graph import read_graph
from nas_distill.cut.groups import form_groups
from nas_distill.cut.plan import Block, Group, Plan, Whole
from nas_distill.cut.proof import SAMPLES, Proof, Widths
from nas_distill.cut.trunk import Stretch, find_trunk


def find_plan(module: nn.Module, input_shape: Sequence[int], *, blocks: Sequence[str] | None = None) -> Plan:
    """Return what can be cut from ``module``: groups, each proven, the trunk's blocks, and what is left whole.

    ``module`` is as before afterwards.

    Args:
        module: the teacher.
        input_shape: of one sample, (C, H, W) for images.
        blocks: dotted names of the trunk's blocks in the order of the forward pass, where they are not found.

    Raises:
        SpaceError: the network fails on such a sample, no trunk of blocks is found in it, or what is named is no block.
    """
    copied = copy.deepcopy(module).cpu()
    recording = _record(copied, input_shape)
    trunk = find_trunk(copied, recording, blocks)
    order = _order(copied, recording)
    del recording
    proof = Proof(copied, input_shape, [block.module for block in trunk])
    atoms, whole = _read(copied, input_shape)
    groups, failed = _proven(form_groups(copied, atoms, order), proof)
    groups = [replace(group, block=_block(group, trunk)) for group in groups]
    return Plan(tuple(groups), tuple(_blocks(trunk, groups, proof)), (*whole, *failed))


def _record(module: nn.Module, input_shape: Sequence[int]) -> Recording:
    x = torch.randn(SAMPLES, *input_shape, generator=torch_generator(0, "cut", "find"))
    try:
        return record(module, x)
    except TrainingError as error:
        raise SpaceError(f"what can be cut from the teacher cannot be found: {error}") from error


def _order(module: nn.Module, recording: Recording) -> list[str]:
    called = sorted(recording.calls, key=lambda call: call.started)
    parameters = [name for name, _ in module.named_parameters()]
    return [*dict.fromkeys(call.name for call in called), *parameters]


def _read(module: nn.Module, input_shape: Sequence[int]) -> tuple[Atoms, list[Whole]]:
    try:
        return read_graph(copy.deepcopy(module), input_shape), []
    except Exception as error:
        reason = f"its graph cannot be read by torch-pruning ({first_line(error, 120)})"
        return Atoms(), [Whole("", reason)]


def _proven(groups: Sequence[Group], proof: Proof) -> tuple[list[Group], list[Whole]]:
    """Return the groups that can be cut, each alone and all of them together, and what cannot."""
    good: list[Group] = []
    whole: list[Whole] = []
    for group in groups:
        reason = proof.failure(group)
        if reason is None:
            good.append(group)
        else:
            whole.append(Whole(group.name, reason))
    if not _together(good, proof):
        one_by_one: list[Group] = []
        for group in good:
            if _together([*one_by_one, group], proof):
                one_by_one.append(group)
            else:
                whole.append(Whole(group.name, "it can be cut alone, but not beside the groups before it"))
        good = one_by_one
    return good, whole


def _together(groups: Sequence[Group], proof: Proof) -> bool:
    return not groups or all(proof.failure(*groups, share=share) is None for share in (0.5, 0.01))


def _block(group: Group, trunk: Sequence[Stretch]) -> int | None:
    for index, block in enumerate(trunk):
        if all(f"{slot.module}.".startswith(f"{block.module}.") for slot in group.slots):
            return index
    return None


def _blocks(trunk: Sequence[Stretch], groups: Sequence[Group], proof: Proof) -> list[Block]:
    """Find which groups the blocks' channels are of: those with which they get fewer."""
    whole = proof.widths()
    given: dict[str, list[Group]] = {block.module: [] for block in trunk}
    made: dict[str, list[Group]] = {block.module: [] for block in trunk}
    for group in groups:
        narrow: Widths = proof.widths([group])
        for name, (inputs, outputs) in narrow.items():
            if inputs != whole[name][0]:
                given[name].append(group)
            if outputs != whole[name][1]:
                made[name].append(group)
    found = []
    for block in trunk:
        ins, outs = given[block.module], made[block.module]
        input, inputs = _governed(ins, block.inputs)
        output, outputs = _governed(outs, block.outputs)
        found.append(
            Block(
                block.module,
                block.same and ins == outs and len(ins) < 2,
                input,
                output,
                block.stride,
                inputs,
                outputs,
                block.tokens,
                block.signed,
                block.wrapped,
            )
        )
    return [replace(block, droppable=block.droppable and _drops(block, proof)) for block in found]


def _governed(groups: Sequence[Group], channels: int) -> tuple[str | None, int]:
    if not groups:
        return None, channels
    return (groups[0].name, channels) if len(groups) == 1 and groups[0].size == channels else (None, 0)


def _drops(block: Block, proof: Proof) -> bool:
    try:
        proof.widths(kinds={0: "drop"}, plan=Plan((), (block,), ()))
    except Exception:
        return False
    return True
