"""Alternatives of the teacher's blocks, and the decisions and selections of which assemblies consist."""

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
    """One option of a decision.

    Attributes:
        name: for people.
        score: loss of quality; lower is better. An option whose score is not finite is never chosen.
        costs: by name, in their plain units; a cost that is missing is 0.
        widths: required widths of shared groups, by the name of the group.
    """

    name: str
    score: float
    costs: Mapping[str, float] = field(default_factory=dict)
    widths: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Decision:
    """One decision of the integer program, of which exactly one option is chosen.

    ``counts``: it counts in the overlap of two assemblies.
    """

    name: str
    options: tuple[Option, ...]
    counts: bool = True


@dataclass(frozen=True)
class Selection:
    """One chosen option per decision.

    Attributes:
        options: the index of the chosen option of each decision.
        widths: of each shared group.
        costs: sums over decisions.
        score: sum over decisions; lower is better.
    """

    options: tuple[int, ...]
    widths: Mapping[str, int]
    costs: Mapping[str, float]
    score: float


MAX_ALTERNATIVES = 3000
"""Largest number of alternatives that are trained; more would take too long."""


@dataclass(frozen=True)
class Alternative:
    """One alternative of a block.

    Attributes:
        block: index of the block.
        replacement: ``UNPRUNED`` (cut from the teacher's block), ``DROPPED``, or the name of a cheaper block.
        input: number of kept units of the group of its input channels; None if they are not a choice.
        output: likewise for its output channels.
        inner: numbers of kept units of the groups inside of it, in the plan's order; empty for replacements.
    """

    block: int
    replacement: str
    input: int | None
    output: int | None
    inner: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """A name that is unique among the teacher's alternatives and valid in files."""
        ends = [f"{side}{width}" for side, width in (("in", self.input), ("out", self.output)) if width is not None]
        inner = ["x".join(map(str, self.inner))] if self.inner else []
        return "-".join([f"block{self.block}", self.replacement, *ends, *inner])


@dataclass(frozen=True)
class Alternatives:
    """All alternatives of all blocks, and the widths of the groups that blocks share.

    Attributes:
        space: of the students.
        entries: in the order of blocks, from narrow to wide.
        shared: the tried widths of each shared group, ascending.
    """

    space: CutSpace
    entries: tuple[Alternative, ...]
    shared: Mapping[str, tuple[int, ...]]

    @property
    def plan(self) -> Plan:
        """The pruning plan of the teacher."""
        return self.space.plan

    def of_block(self, block: int) -> list[Alternative]:
        """Return the alternatives of one block."""
        return [entry for entry in self.entries if entry.block == block]

    def read_outside(self) -> dict[str, tuple[int, ...]]:
        """Return the widths of shared groups that have several and are read outside of the blocks.

        The loss of quality by a smaller width of these groups is not in the score of any block.
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
        """Return the widths that an alternative requires of the groups at its input and output."""
        block = self.plan.blocks[entry.block]
        ends = ((block.input, entry.input), (block.output, entry.output))
        return {group: width for group, width in ends if group is not None and width is not None}

    def cut(self, chosen: Sequence[Alternative], widths: Mapping[str, int]) -> Cut:
        """Return the student with these alternatives, one per block in the order of blocks.

        ``widths``: of the shared groups; the largest tried if missing. Other names in it are ignored.
        """
        shared = {group: widths.get(group, max(own)) for group, own in self.shared.items()}
        return self.partial_cut({entry.block: entry for entry in chosen}, shared)

    def partial_cut(self, chosen: Mapping[int, Alternative], widths: Mapping[str, int]) -> Cut:
        """Return the cut with alternatives of some blocks and widths of some shared groups; the rest is unpruned."""
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
        """Return the alternatives of a ``to_dict`` result."""
        return cls(
            space=CutSpace.from_dict(values["space"]),
            entries=tuple(Alternative(**{**entry, "inner": tuple(entry["inner"])}) for entry in values["entries"]),
            shared={group: tuple(widths) for group, widths in values["shared"].items()},
        )

    def of_cut(self, cut: Cut) -> list[Alternative]:
        """Return the alternative of each block of a student; it need not be one of ``entries``."""
        found = []
        for index, (block, replacement) in enumerate(zip(self.plan.blocks, cut.blocks, strict=True)):
            inner = tuple(cut.widths[group.name] for group in self.plan.inner(index)) if replacement == UNPRUNED else ()
            input, output = (None if group is None else cut.widths[group] for group in (block.input, block.output))
            found.append(Alternative(index, replacement, input, output, inner))
        return found


def find_alternatives(space: CutSpace, *, shared: Sequence[float], inner: Sequence[float]) -> Alternatives:
    """Return the alternatives of the blocks of a space of cuts.

    Args:
        space: of the teacher's students.
        shared: tried shares of the units of shared groups, rounded up to allowed widths.
        inner: tried shares for the groups inside of a block, all groups of it at the same share.

    Raises:
        SpaceError: the blocks of the space cannot be trained separately.
        ConfigError: there are more than ``MAX_ALTERNATIVES``.
    """
    plan = space.plan
    held = _unprunable_groups(plan)
    widths: dict[str, tuple[int, ...]] = {}
    for group in plan.shared:
        if group.name in held and space.widths[group.name][-1] < group.size:
            raise SpaceError(
                f"blockwise distillation cannot prune group '{group.name}', since block "
                f"'{plan.blocks[held[group.name]].module}' reads or returns channels of several groups; add 1.0 to the "
                "space's widths."
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
    if len(entries) > MAX_ALTERNATIVES:
        raise ConfigError(
            f"blockwise: the {len(plan.blocks)} blocks have {len(entries)} alternatives, more than the limit of "
            f"{MAX_ALTERNATIVES}; give fewer shares for 'trunk' or 'widths'."
        )
    return Alternatives(space, tuple(entries), widths)


def _unprunable_groups(plan: Plan) -> dict[str, int]:
    """Return the shared groups that are not pruned, each with the index of a block that is the reason.

    A group inside of a block that does not cover all channels at its input or output cannot be separated from others.
    """
    found: dict[str, int] = {}
    for index, block in enumerate(plan.blocks):
        for group in plan.shared:
            inside = any(f"{slot.module}.".startswith(f"{block.module}.") for slot in group.slots)
            if inside and group.name not in (block.input, block.output):
                found.setdefault(group.name, index)
    return found


def _ends(block: Block, shared: Mapping[str, tuple[int, ...]]) -> list[tuple[int | None, int | None]]:
    """Return the tried pairs of input and output width of a block."""
    ins: Sequence[int | None] = (None,) if block.input is None else shared[block.input]
    if block.input is not None and block.input == block.output:
        return [(width, width) for width in ins]
    return list(itertools.product(ins, (None,) if block.output is None else shared[block.output]))
