"""Alternatives of each block of the teacher, and the architecture that each assembly means."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nas_distill.pruning.plan import UNPRUNED, Block, Cut, Plan
from nas_distill.pruning.space import CutSpace
from nas_distill.utils.errors import ConfigError, SpaceError


@dataclass(frozen=True)
class Option:
    """One way to fill a place.

    Attributes:
        name: for the reader.
        score: how much is lost by it; lower is better. An option whose score is not finite is never chosen.
        costs: by name, in their plain units; a cost that is missing is 0.
        widths: the width that it needs each of these shared groups to have.
    """

    name: str
    score: float
    costs: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """A part of the network. ``counts``: whether it is one of those by which two assemblies are told apart."""

    name: str
    options: tuple[Option, ...]
    counts: bool = True


@dataclass(frozen=True)
class Selection:
    """One option for each place.

    Attributes:
        options: for each place the index of its option.
        widths: of each shared group.
        costs: the sum over places.
        score: likewise; lower is better.
    """

    options: tuple[int, ...]
    widths: Mapping[str, int]
    costs: Mapping[str, float]
    score: float


MOST = 3000
"""Alternatives above which nobody waits for their training."""


@dataclass(frozen=True)
class Alternative:
    """One way to make one block.

    Attributes:
        block: index of the block.
        replacement: ``UNPRUNED`` (cut from the teacher's), ``DROPPED``, or the name of a cheaper block.
        input: units that are kept of the group of its input channels, None where they are no choice.
        output: likewise of its output channels.
        inner: units that are kept of the groups inside of it, in the plan's order; empty unless it is unpruned.
    """

    block: int
    replacement: str
    input: int | None
    output: int | None
    inner: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """A name that no other alternative of this teacher has, fit for files."""
        ends = [f"{side}{width}" for side, width in (("in", self.input), ("out", self.output)) if width is not None]
        inner = ["x".join(map(str, self.inner))] if self.inner else []
        return "-".join([f"block{self.block}", self.replacement, *ends, *inner])


@dataclass(frozen=True)
class Alternatives:
    """All alternatives of all blocks, and the widths of the groups that blocks share.

    Attributes:
        space: of the students.
        entries: in the order of blocks, from narrow to wide.
        shared: for each shared group the widths that are tried, rising.
    """

    space: CutSpace
    entries: tuple[Alternative, ...]
    shared: Mapping[str, tuple[int, ...]]

    @property
    def plan(self) -> Plan:
        """What can be cut from the teacher."""
        return self.space.plan

    def of_block(self, block: int) -> list[Alternative]:
        """Return the alternatives of one block."""
        return [entry for entry in self.entries if entry.block == block]

    def read_outside(self) -> dict[str, tuple[int, ...]]:
        """Return the widths of those shared groups, of several widths, that something outside of the blocks reads.

        What is lost by fewer of them shows in no block that is given fewer.
        """
        ends = {group for block in self.plan.blocks for group in (block.input, block.output)}
        inside = tuple(f"{block.module}." for block in self.plan.blocks)
        return {
            group: widths
            for group, widths in self.shared.items()
            if len(widths) > 1
            and (
                group not in ends
                or any(
                    slot.side == "in" and not f"{slot.module}.".startswith(inside)
                    for slot in self.plan.group(group).slots
                )
            )
        }

    def widths(self, entry: Alternative) -> dict[str, int]:
        """Return the widths that an alternative needs the groups at its ends to have."""
        block = self.plan.blocks[entry.block]
        ends = ((block.input, entry.input), (block.output, entry.output))
        return {group: width for group, width in ends if group is not None and width is not None}

    def cut(self, chosen: Sequence[Alternative], widths: Mapping[str, int]) -> Cut:
        """Return the student that has these alternatives, one of each block in their order.

        ``widths``: of the shared groups; the largest tried where they are missing. Other names in it are not used.
        """
        shared = {group: widths.get(group, max(own)) for group, own in self.shared.items()}
        return self.partial_cut({entry.block: entry for entry in chosen}, shared)

    def partial_cut(self, chosen: Mapping[int, Alternative], widths: Mapping[str, int]) -> Cut:
        """Return the cut for some blocks' alternatives and some shared groups' widths, all else being the teacher's."""
        inner = {
            group.name: width
            for block, entry in chosen.items()
            for group, width in zip(self.plan.inner(block), entry.inner)
        }
        return Cut.of(self.plan, {**widths, **inner}, {block: entry.replacement for block, entry in chosen.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "space": self.space.to_dict(),
            "entries": [asdict(entry) for entry in self.entries],
            "shared": {group: list(widths) for group, widths in self.shared.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Alternatives:
        """Read what ``to_dict`` wrote."""
        return cls(
            space=CutSpace.from_dict(values["space"]),
            entries=tuple(Alternative(**{**entry, "inner": tuple(entry["inner"])}) for entry in values["entries"]),
            shared={group: tuple(widths) for group, widths in values["shared"].items()},
        )

    def of_cut(self, cut: Cut) -> list[Alternative]:
        """Return how a student makes each block, whether or not that is among the alternatives here."""
        found = []
        for index, (block, replacement) in enumerate(zip(self.plan.blocks, cut.blocks, strict=True)):
            inner = tuple(cut.widths[group.name] for group in self.plan.inner(index)) if replacement == UNPRUNED else ()
            input, output = (None if group is None else cut.widths[group] for group in (block.input, block.output))
            found.append(Alternative(index, replacement, input, output, inner))
        return found


def find_alternatives(space: CutSpace, *, shared: Sequence[float], inner: Sequence[float]) -> Alternatives:
    """Return the alternatives of the blocks of a space that was cut from a teacher.

    Args:
        space: of its students.
        shared: shares of their units that the shared groups are tried at, rounded up to what the space allows.
        inner: shares for the groups inside of a block, all at one share.

    Raises:
        SpaceError: the space cannot be made of blocks that are trained apart.
        ConfigError: there are more than ``MOST``.
    """
    plan = space.plan
    held = _held(plan)
    widths: dict[str, tuple[int, ...]] = {}
    for group in plan.shared:
        if group.name in held and space.widths[group.name][-1] < group.size:
            raise SpaceError(
                f"blockwise distillation keeps group '{group.name}' whole, since the channels at an end of block "
                f"'{plan.blocks[held[group.name]].module}' are of several groups; add 1.0 to the space's widths."
            )
        tried = {space.width_at(group.name, share) for share in shared}
        widths[group.name] = (group.size,) if group.name in held else tuple(sorted(tried))
    entries: list[Alternative] = []
    for index, block in enumerate(plan.blocks):
        within = dict.fromkeys(
            tuple(space.width_at(group.name, share) for group in plan.inner(index)) for share in sorted(inner)
        )
        for replacement in space.choices[index]:
            entries += [
                Alternative(index, replacement, *ends, own)
                for ends in _ends(block, widths)
                for own in (within if replacement == UNPRUNED else [()])
            ]
    if len(entries) > MOST:
        raise ConfigError(
            f"blockwise: the {len(plan.blocks)} blocks have {len(entries)} alternatives, and at most {MOST} are "
            "trained; give fewer shares for 'trunk' or 'widths'."
        )
    return Alternatives(space, tuple(entries), widths)


def _held(plan: Plan) -> dict[str, int]:
    """Return the shared groups that are left whole, and a block because of which.

    A group that has a part in a block, but is not all of the channels at its ends, cannot be told from them.
    """
    found: dict[str, int] = {}
    for index, block in enumerate(plan.blocks):
        for group in plan.shared:
            inside = any(f"{slot.module}.".startswith(f"{block.module}.") for slot in group.slots)
            if inside and group.name not in (block.input, block.output):
                found.setdefault(group.name, index)
    return found


def _ends(block: Block, shared: Mapping[str, tuple[int, ...]]) -> list[tuple[int | None, int | None]]:
    """Return the pairs of input and output width that a block is tried at."""
    ins: Sequence[int | None] = (None,) if block.input is None else shared[block.input]
    if block.input is not None and block.input == block.output:
        return [(width, width) for width in ins]
    return list(itertools.product(ins, (None,) if block.output is None else shared[block.output]))
