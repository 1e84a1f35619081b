"""Which groups the channels at the boundaries of the blocks are of, and which blocks can be dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nas_distill.cut.plan import Block, Group
from nas_distill.cut.proof import Boundaries, Proof
from nas_distill.cut.trunk import Stretch


def find_blocks(
    trunk: Sequence[Stretch], groups: Sequence[Group], narrowed: Mapping[str, Boundaries], proof: Proof
) -> list[Block]:
    """Return the plan's blocks.

    A boundary's channels are of the groups with which they get fewer: ``narrowed`` has for each group what cutting it
    does to the blocks' boundaries.
    """
    blocks = []
    for stretch in trunk:
        returned = proof.seen[stretch.module].returned
        given = {group.name: narrowed[group.name][stretch.module][0] for group in groups}
        made = {group.name: narrowed[group.name][stretch.module][1] for group in groups}
        input, inputs = _governed(given, stretch.inputs)
        output, outputs = _governed(made, stretch.outputs)
        if returned not in (None, 1):  # nothing else can stand where several values are taken
            output, outputs = None, 0
        blocks.append(
            Block(
                module=stretch.module,
                droppable=stretch.same and not stretch.branch and input == output and inputs == outputs > 0,
                input=input,
                output=output,
                stride=stretch.stride,
                inputs=inputs,
                outputs=outputs,
                tokens=stretch.tokens,
                signed=stretch.signed,
                wrapped=returned is not None,
                dims=stretch.dims,
            )
        )
    return _dropping(blocks, groups, proof)


def _governed(narrowed: Mapping[str, bool | None], channels: int) -> tuple[str | None, int]:
    """Return a boundary's group, and its channels in the teacher; 0 if they are not those of one group in order."""
    groups = {name: aligned for name, aligned in narrowed.items() if aligned is not None}
    if not groups:
        return None, channels
    return (next(iter(groups)), channels) if list(groups.values()) == [True] else (None, 0)


def _dropping(blocks: Sequence[Block], groups: Sequence[Group], proof: Proof) -> list[Block]:
    """Return the blocks, of which those alone are droppable without all of which the network runs."""
    gone = [block for block in blocks if block.droppable]
    if gone and not proof.of_drops(gone, groups):
        gone = []
        for block in blocks:
            if block.droppable and proof.of_drops([*gone, block], groups):
                gone.append(block)
    return [replace(block, droppable=block in gone) for block in blocks]
