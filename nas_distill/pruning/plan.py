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
"""Values of a block in architectures, besides the names of replacements."""


@dataclass(frozen=True)
class Slot:
    """One dimension of one module that a group governs.

    Attributes:
        module: dotted name of the module in the teacher ("" is the root), or of a parameter outside of torch's own
            layers (a position embedding, a layer scale); of a parameter, the slot is the last dimension longer than 1.
        side: ``in``put or ``out``put channels. For a normalisation and a grouped convolution, ``out`` is both. For
            torch's attention, ``in`` is the width of queries, keys and values, ``out`` the rows of their projection.
        indices: for each unit of the group, its indices in that dimension: several behind a flatten, an offset behind
            a concatenation.
    """

    module: str
    side: Side
    indices: ChannelIndices


@dataclass(frozen=True)
class Group:
    """A pruning group: units (channels, heads or neurons) that are each kept or removed in several layers at once.

    Attributes:
        name: unique; the name of the (first) module that makes the units.
        kind: the kind of unit.
        size: number of units in the teacher.
        slots: all dimensions that contain the units.
        block: index of the block that contains the whole group; None for a group shared between blocks.
    """

    name: str
    kind: Kind
    size: int
    slots: tuple[Slot, ...]
    block: int | None


@dataclass(frozen=True)
class Block:
    """One block of the backbone.

    Attributes:
        module: dotted name.
        droppable: its output has the shape of its input and the same channel group, so that returning its first
            argument can replace it.
        input: group of its input channels; None if they are those of the data, or never pruned.
        output: group of its output channels; None if they are never pruned.
        stride: ratio of the input's resolution to the output's, rounded; 0 if a padded convolution cannot have it (the
            block enlarges maps, or crops their edges); 1 for tokens.
        inputs: input channels in the teacher: those of the input group's units in order, the same number per unit; 0
            for any other composition, such as several groups.
        outputs: output channels, likewise; also 0 if it returns several values.
        tokens: it maps (B, N, D) tokens, not maps.
        signed: its output has negative values; otherwise it ends with a ReLU or the like.
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
    """A module that pruning does not change, and the reason: a clause for the user, without a full stop."""

    module: str
    reason: str


@dataclass(frozen=True)
class Rewrite:
    """A module without weights that only selects and pads channels, to be replaced by a 1x1 convolution.

    Attributes:
        module: dotted name.
        inputs: number of its input channels.
        stride: of the selected pixels, in both directions.
        sources: for each output channel, its input channel; None for a channel of zeros.
    """

    module: str
    inputs: int
    stride: int
    sources: tuple[int | None, ...]


@dataclass(frozen=True)
class KeptUnits:
    """The units and blocks of a network that pruning keeps.

    Attributes:
        units: by the name of the group, its kept units in the order that they have in the student; a group that is
            missing keeps all units.
        replacements: by the index of the block, ``DROPPED`` or the name of a cheaper block; blocks that are missing
            are kept.
    """

    units: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    replacements: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A pruning plan: the groups and blocks that can be removed from a teacher after its ``rewrites``.

    ``find_plan`` makes one.
    """

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    unpruned: tuple[Unpruned, ...]
    rewrites: tuple[Rewrite, ...] = ()

    @property
    def shared(self) -> tuple[Group, ...]:
        """The groups that are not inside of a single block, such as the width of a residual stage."""
        return tuple(group for group in self.groups if group.block is None)

    def inner(self, block: int) -> tuple[Group, ...]:
        """Return the groups that a block contains."""
        return tuple(group for group in self.groups if group.block == block)

    def group(self, name: str) -> Group:
        """Return the group called ``name``.

        Raises:
            SpaceError: the plan has no such group.
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
        """Return the plan of a ``to_dict`` result.

        Raises:
            SpaceError: the values are not those of a plan.
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
            raise SpaceError(f"the pruning plan cannot be read ({error!r}); search again to find it again.") from error


def _group(entry: Mapping[str, Any]) -> Group:
    size = int(entry["size"])
    slots = tuple(Slot(module, side, _unpack(indices, size)) for module, side, indices in entry["slots"])
    return Group(entry["name"], entry["kind"], size, slots, entry["block"])


def _pack(indices: ChannelIndices) -> list[Any] | dict[str, int]:
    """Return a compact form: consecutive units of equal length as the first index and the length of one unit."""
    run = len(indices[0]) if indices else 0
    first = indices[0][0] if run else 0
    return (
        {"first": first, "run": run} if indices == _runs(first, run, len(indices)) else [list(one) for one in indices]
    )


def _unpack(packed: Sequence[Any] | Mapping[str, int], size: int) -> ChannelIndices:
    if isinstance(packed, Mapping):
        return _runs(packed["first"], packed["run"], size)
    return tuple(tuple(int(index) for index in one) for one in packed)


def _runs(first: int, run: int, size: int) -> ChannelIndices:
    return tuple(tuple(range(first + unit * run, first + (unit + 1) * run)) for unit in range(size))


Start = Literal["inherited", "random"]
INHERITED: Start = "inherited"
RANDOM: Start = "random"


@dataclass(frozen=True)
class Cut:
    """One student that can be cut from a teacher; ``CutSpace`` and ``Cut.of`` make them.

    Attributes:
        widths: number of kept units by the name of the group. The groups inside of a block are included only if it is
            neither dropped nor replaced, so that equal students are equal cuts.
        blocks: for each block of the plan ``UNPRUNED``, ``DROPPED`` or the name of its replacement.
        start: initial weights of the student: the teacher's, or random ones.
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
        """Return a cut of a plan; groups and blocks that are not named are as in the teacher.

        Args:
            plan: the pruning plan.
            widths: number of kept units by the name of the group; ignored for groups in dropped or replaced blocks.
            blocks: replacements by the index of the block.
            start: the initial weights.

        Raises:
            SpaceError: the plan has no such group, block or width.
        """
        widths, blocks = widths or {}, blocks or {}
        for name, width in widths.items():
            if not 1 <= width <= plan.group(name).size:
                raise SpaceError(f"group '{name}' can keep 1 to {plan.group(name).size} units, not {width}.")
        for index in blocks:
            if not 0 <= index < len(plan.blocks):
                raise SpaceError(f"the teacher has no block {index}; it has {len(plan.blocks)} blocks, counted from 0.")
        made = tuple(blocks.get(index, UNPRUNED) for index in range(len(plan.blocks)))
        kept = {group.name: widths.get(group.name, group.size) for group in active_groups(plan, made)}
        return cls(kept, made, start)

    @property
    def kept_blocks(self) -> tuple[int, ...]:
        """The indices of the blocks that are not dropped, including replaced ones."""
        return tuple(index for index, block in enumerate(self.blocks) if block != DROPPED)

    @property
    def replacements(self) -> dict[int, str]:
        """The replacements of replaced and dropped blocks, by index."""
        return {index: block for index, block in enumerate(self.blocks) if block != UNPRUNED}

    def units(self, plan: Plan, orders: Mapping[str, Sequence[int]] | None = None) -> KeptUnits:
        """Return the units that are kept: the most important of each group, in the teacher's order.

        Args:
            plan: the plan of the cut.
            orders: units by the name of the group, the most important first; a group that is missing keeps its first
                units.
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
    """Return the groups that have widths: shared ones, and those in blocks that are neither dropped nor replaced."""
    return [group for group in plan.groups if group.block is None or blocks[group.block] == UNPRUNED]
