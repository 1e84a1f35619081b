"""Pruning plans: groups of units, backbone blocks, and parts left unpruned; and cuts, one choice among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from nas_distill.utils.errors import SpaceError, did_you_mean

Side = Literal["in", "out"]
Kind = Literal["channels", "heads", "neurons"]
ChannelIndices = tuple[tuple[int, ...], ...]

UNPRUNED, DROPPED = "whole", "drop"
"""Fates of a block, besides the names of replacements, as architectures write them."""


@dataclass(frozen=True)
class Slot:
    """One dimension of one module that a group governs.

    Attributes:
        module: dotted name of the module in the teacher ("" is the root), or of a parameter that belongs to none of
            torch's own layers (a position embedding, a layer scale): then the last dimension longer than 1 is meant.
        side: its ``in``put or its ``out``put channels; ``out`` is both of a normalisation and of a grouped convolution.
            Of torch's attention ``in`` is the width of queries, keys and values, ``out`` the rows of their projection.
        indices: for each unit of the group the indices of that dimension that it owns: several behind a flatten, an
            offset behind a concatenation.
    """

    module: str
    side: Side
    indices: ChannelIndices


@dataclass(frozen=True)
class Group:
    """Units (channels, heads or neurons) that stay or go together.

    Attributes:
        name: unique; the module that makes the units, the first of several.
        kind: what the units are.
        size: how many there are in the teacher.
        slots: every dimension that they are part of.
        block: index of the block that the group is wholly inside of, None for one that is shared between blocks.
    """

    name: str
    kind: Kind
    size: int
    slots: tuple[Slot, ...]
    block: int | None


@dataclass(frozen=True)
class Block:
    """One block of the backbone; they are in the order of the forward pass.

    Attributes:
        module: dotted name.
        droppable: what it returns has the shape of what it is given, and its channels are of the same group, so that
            it can be replaced by passing on its first argument.
        input: group of the channels that it is given, None where they are the data's own or never pruned.
        output: group of the channels that it returns, likewise.
        stride: ratio of its input's resolution to its output's, rounded; 0 if no padded convolution has it, as where it
            enlarges maps or takes their edges away; 1 for tokens.
        inputs: channels that it is given in the teacher: those of the input group's units one after the other, as many
            of each; 0 if they are made up otherwise, of several groups, say.
        outputs: channels that it returns, likewise; 0 too if it returns several values.
        tokens: it maps (B, N, D) tokens, not maps.
        signed: what it returns has negative values; without, it ends with a ReLU or the like.
        wrapped: it returns its output as the only entry of a tuple.
        dims: dimensions of its maps: 2 for (B, C, H, W); 1 or 3 for sequences or volumes, and 1 for tokens.
    """

    module: str
    droppable: bool
    input: str | None
    output: str | None
    stride: int
    inputs: int = 0
    outputs: int = 0
    tokens: bool = False
    signed: bool = True
    wrapped: bool = False
    dims: int = 2


@dataclass(frozen=True)
class Unpruned:
    """A module that is left as it is, and the reason: a part of a sentence for the user."""

    module: str
    reason: str


@dataclass(frozen=True)
class Rewrite:
    """A module without weights that a 1x1 convolution stands in for, since it only picks and pads channels.

    Attributes:
        module: dotted name.
        inputs: channels that it is given.
        stride: of the pixels that it picks, in both directions.
        sources: for each channel that it returns the one of its input, None for a channel of zeros.
    """

    module: str
    inputs: int
    stride: int
    sources: tuple[int | None, ...]


@dataclass(frozen=True)
class KeptUnits:
    """The units and blocks of a network that pruning keeps.

    Attributes:
        units: by the name of their group the units that stay, in the order that they have in the student; all of a
            group that is missing.
        replacements: by the index of a block ``DROPPED``, or the name of a cheaper block; blocks that are missing stay.
    """

    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    replacements: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The groups and blocks that can be cut from a teacher, after its ``rewrites``; ``find_plan`` makes one."""

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    unpruned: tuple[Unpruned, ...]
    rewrites: tuple[Rewrite, ...] = ()

    @property
    def shared(self) -> tuple[Group, ...]:
        """The groups that are in no single block, such as the width of a residual stage."""
        return tuple(group for group in self.groups if group.block is None)

    def inner(self, block: int) -> tuple[Group, ...]:
        """Return the groups that are wholly inside of a block."""
        return tuple(group for group in self.groups if group.block == block)

    def group(self, name: str) -> Group:
        """Return the group called ``name``.

        Raises:
            SpaceError: there is none.
        """
        if name not in self._by_name:
            raise SpaceError(f"the plan has no group '{name}'{did_you_mean(name, list(self._by_name))}")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "groups": [
                {
                    "name": group.name,
                    "kind": group.kind,
                    "size": group.size,
                    "block": group.block,
                    "slots": [[slot.module, slot.side, _pack(slot.indices)] for slot in group.slots],
                }
                for group in self.groups
            ],
            "blocks": [asdict(block) for block in self.blocks],
            "whole": [asdict(one) for one in self.unpruned],
            **({"rewrites": [asdict(one) for one in self.rewrites]} if self.rewrites else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Read what ``to_dict`` wrote.

        Raises:
            SpaceError: it is no plan.
        """
        try:
            return cls(
                groups=tuple(_group(entry) for entry in values["groups"]),
                blocks=tuple(Block(**entry) for entry in values["blocks"]),
                unpruned=tuple(Unpruned(**entry) for entry in values["whole"]),
                rewrites=tuple(
                    Rewrite(**{**entry, "sources": tuple(entry["sources"])}) for entry in values.get("rewrites", ())
                ),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(f"a plan of what can be cut from a teacher cannot be read ({error!r}).") from error


def _group(entry: Mapping[str, Any]) -> Group:
    size = int(entry["size"])
    slots = tuple(Slot(module, side, _unpack(indices, size)) for module, side, indices in entry["slots"])
    return Group(entry["name"], entry["kind"], size, slots, entry["block"])


def _pack(indices: ChannelIndices) -> list[Any] | dict[str, int]:
    """Units one after the other, as nearly all are, are written as where the first begins and how long each is."""
    run = len(indices[0]) if indices else 0
    first = indices[0][0] if run else 0
    return (
        {"first": first, "run": run} if indices == _runs(first, run, len(indices)) else [list(one) for one in indices]
    )


def _unpack(packed: Sequence[Any] | Mapping[str, int], size: int) -> ChannelIndices:
    if isinstance(packed, Mapping):
        return _runs(packed["first"], packed["run"], size)
    return tuple(tuple(int(place) for place in one) for one in packed)


def _runs(first: int, run: int, size: int) -> ChannelIndices:
    return tuple(tuple(range(first + unit * run, first + (unit + 1) * run)) for unit in range(size))


Start = Literal["inherited", "random"]
INHERITED: Start = "inherited"
RANDOM: Start = "random"


@dataclass(frozen=True)
class Cut:
    """One student that can be cut from a teacher; ``CutSpace`` and ``Cut.of`` make them.

    Attributes:
        widths: by the names of groups the units that are kept. The groups inside of a block are among them only while
            it is unpruned, so that equal students are equal cuts.
        blocks: for each block of the plan ``UNPRUNED``, ``DROPPED`` or the name of its replacement.
        start: whether the student begins with the teacher's weights or with random ones.
    """

    widths: Mapping[str, int]
    blocks: tuple[str, ...]
    start: Start = INHERITED

    @classmethod
    def of(
        cls,
        plan: Plan,
        widths: Mapping[str, int] | None = None,
        blocks: Mapping[int, str] | None = None,
        start: Start = INHERITED,
    ) -> Cut:
        """Return a cut of any plan; groups and blocks that are not named are as in the teacher.

        Args:
            plan: what can be cut.
            widths: units kept, by the name of their group; those of groups in blocks that go are passed over.
            blocks: replacements by the index of their block.
            start: the initial weights.

        Raises:
            SpaceError: the plan has no such group, block or width.
        """
        widths, blocks = widths or {}, blocks or {}
        for name, width in widths.items():
            if not 1 <= width <= plan.group(name).size:
                raise SpaceError(f"group '{name}' has 1 to {plan.group(name).size} units, and {width} were to be kept.")
        for index in blocks:
            if not 0 <= index < len(plan.blocks):
                raise SpaceError(
                    f"the teacher has {len(plan.blocks)} blocks, counted from 0, and none of index {index}."
                )
        made = tuple(blocks.get(index, UNPRUNED) for index in range(len(plan.blocks)))
        kept = {group.name: widths.get(group.name, group.size) for group in active_groups(plan, made)}
        return cls(kept, made, start)

    @property
    def kept_blocks(self) -> tuple[int, ...]:
        """The indices of the blocks that are not dropped, replaced ones among them."""
        return tuple(index for index, block in enumerate(self.blocks) if block != DROPPED)

    @property
    def replacements(self) -> dict[int, str]:
        """The replacements of blocks that are replaced or dropped, by index."""
        return {index: block for index, block in enumerate(self.blocks) if block != UNPRUNED}

    def units(self, plan: Plan, orders: Mapping[str, Sequence[int]] | None = None) -> KeptUnits:
        """Return the very units that stay: the most important of each group, in the teacher's order.

        Args:
            plan: that the cut is of.
            orders: by the names of groups their units, the most important first; the first units stay of groups that
                have none.
        """
        kept = {}
        for name, width in self.widths.items():
            size = plan.group(name).size
            if width < size:
                kept[name] = tuple(sorted((orders or {}).get(name, range(size))[:width]))
        return KeptUnits(kept, self.replacements)

    def __hash__(self) -> int:
        return hash((frozenset(self.widths.items()), self.blocks, self.start))


def active_groups(plan: Plan, blocks: Sequence[str]) -> list[Group]:
    """Return the groups that have widths: those in no block, and in unpruned ones."""
    return [group for group in plan.groups if group.block is None or blocks[group.block] == UNPRUNED]
