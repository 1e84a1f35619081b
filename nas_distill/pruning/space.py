"""The space of cuts: the widths and blocks of a teacher's students, and their encoding as architectures.

Only this file knows the parameters of a ``SearchSpace`` that encode a cut. They are, each from cheap to expensive:
``start`` (only if it is a choice); ``depth`` (only in a space with a depth order), the number of droppable blocks that
are kept; ``shared``, one ``width`` per shared group; ``blocks``, per block its ``kind`` if there is a choice (``drop``,
the replacements, ``whole``) and, if the kind is ``whole``, the widths of the ``inner`` groups. Lists are in the plan's
order; a width counts units. A block dropped by ``depth`` has no parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from nas_distill.pruning.plan import DROPPED, INHERITED, RANDOM, UNPRUNED, Cut, Group, Plan, Start, active_groups
from nas_distill.spaces import Architecture, SearchSpace
from nas_distill.utils.errors import SpaceError, did_you_mean

WIDTHS = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)

_PARAMETERS = ("start", "depth", "shared", "blocks")


@dataclass(frozen=True)
class CutSpace:
    """All cuts of a teacher that a search considers.

    Attributes:
        plan: the pruning plan of the teacher.
        widths: the allowed numbers of kept units by the name of the group, ascending.
        choices: for each block of the plan its allowed replacements, from cheap to expensive: ``DROPPED``, cheaper
            blocks, and ``UNPRUNED`` last.
        depth_order: the droppable blocks in the order in which they are dropped; empty if blocks are dropped
            independently, or never.
        start: the initial weights of all students, or ``both`` if architectures choose them.
    """

    plan: Plan
    widths: Mapping[str, tuple[int, ...]]
    choices: tuple[tuple[str, ...], ...]
    depth_order: tuple[int, ...] = ()
    start: Start | Literal["both"] = INHERITED

    @classmethod
    def from_plan(
        cls,
        plan: Plan,
        *,
        widths: Sequence[float] = WIDTHS,
        multiple: int = 8,
        depth: Literal["each", "whole"] | Sequence[int] = "each",
        replacements: Sequence[str] = (),
        start: Start | Literal["both"] = INHERITED,
    ) -> CutSpace:
        """Return the space of all cuts of a pruning plan.

        Args:
            plan: the pruning plan.
            widths: shares of its units that a group may keep.
            multiple: the number of kept channels or neurons is rounded up to a multiple of it (of heads: of one).
            depth: ``each`` droppable block may be dropped independently; ``whole``: none may; or the indices of the
                droppable blocks in the order in which they are dropped.
            replacements: names of cheaper blocks that may replace the teacher's where they fit (``REPLACEMENTS``).
            start: initial weights: the teacher's, random ones, or a parameter of each architecture.

        Raises:
            SpaceError: nothing can be cut, or a replacement is unknown or fits no block.
        """
        from nas_distill.pruning.replacements import fits  # imports torch, which reports do without

        for name in replacements:
            if not any(fits(name, block) for block in plan.blocks):
                raise SpaceError(f"kinds: '{name}' fits no block of the teacher.")
        droppable = [index for index, block in enumerate(plan.blocks) if block.droppable]
        order = () if isinstance(depth, str) else tuple(int(index) for index in depth)
        if not isinstance(depth, str) and sorted(order) != droppable:
            raise SpaceError(
                f"depth: an order must have each droppable block once ({droppable}), and {list(order)} is given."
            )
        if not plan.groups and not droppable and not replacements:
            first = plan.unpruned[0] if plan.unpruned else None
            why = f" ({first.module or 'the network'}: {first.reason})" if first else ""
            raise SpaceError(f"nothing can be cut from the teacher{why}; use another search space for its students.")
        choices = tuple(
            (
                *((DROPPED,) if block.droppable and depth != "whole" else ()),
                *(name for name in replacements if fits(name, block)),
                UNPRUNED,
            )
            for block in plan.blocks
        )
        return cls(
            plan, {group.name: _widths(group, widths, multiple) for group in plan.groups}, choices, tuple(order), start
        )

    def search_space(
        self,
        builder: str | Callable[..., Any],
        *,
        arguments: Mapping[str, Any] | None = None,
        name: str = "from_teacher",
        paths: Sequence[str] = (),
    ) -> SearchSpace:
        """Return the search space whose architectures encode the cuts.

        Args:
            builder: builder of students: ``nas_distill.pruning.build:build``, or a ``CutBuilder``.
            arguments: its fixed keywords.
            name: of the space.
            paths: folders in which the builder's module is searched.
        """
        parameters: dict[str, Any] = {}
        if self.start == "both":
            parameters["start"] = [RANDOM, INHERITED]
        if self.depth_order:
            parameters["depth"] = {"int": [0, len(self.depth_order)]}
        if self.plan.shared:
            parameters["shared"] = {"each": [{"width": list(self.widths[group.name])} for group in self.plan.shared]}
        if self.plan.blocks:
            parameters["blocks"] = {"each": [self._block_parameters(index) for index in range(len(self.plan.blocks))]}
        content = {"parameters": parameters, "arguments": dict(arguments or {})}
        return SearchSpace.from_dict(content, builder=builder, name=name, paths=paths)

    def encode(self, cut: Cut) -> Architecture:
        """Return a cut as an architecture of ``search_space``.

        Raises:
            SpaceError: the cut is not in the space.
        """
        self.check(cut)
        values: dict[str, Any] = {"start": cut.start} if self.start == "both" else {}
        if self.depth_order:
            values["depth"] = sum(cut.blocks[index] != DROPPED for index in self.depth_order)
        if self.plan.shared:
            values["shared"] = [{"width": cut.widths[group.name]} for group in self.plan.shared]
        if self.plan.blocks:
            values["blocks"] = [self._block_values(cut, index) for index in range(len(self.plan.blocks))]
        return Architecture(values)

    def decode(self, architecture: Architecture | Mapping[str, Any]) -> Cut:
        """Return the cut that an architecture of ``search_space`` represents.

        Raises:
            SpaceError: the architecture is not in the space.
        """
        values = architecture.to_dict() if isinstance(architecture, Architecture) else architecture
        cut = decode(self.plan, values)
        if self.start != "both":
            cut = replace(cut, start=self.start)
        self.check(cut)
        return cut

    @property
    def droppable(self) -> tuple[int, ...]:
        """The indices of the blocks that the space may drop."""
        return tuple(index for index, choices in enumerate(self.choices) if DROPPED in choices)

    @property
    def unpruned(self) -> Cut:
        """The largest cut: each group at its widest, no block replaced; the teacher itself if widths include 1.0."""
        return self._cut({name: widths[-1] for name, widths in self.widths.items()})

    def uniform(self, share: float) -> Cut:
        """Return uniform narrowing: each group at its smallest allowed width not below ``share``, all blocks kept."""
        return self._cut({group.name: self.width_at(group.name, share) for group in self.plan.groups})

    def width_at(self, group: str, share: float) -> int:
        """Return a group's smallest allowed width not below a share of its units; its largest if all are below."""
        wanted = round(share * self.plan.group(group).size, 6)
        return next((width for width in self.widths[group] if width >= wanted), self.widths[group][-1])

    def with_width(self, cut: Cut, group: str, width: int) -> Cut:
        """Return a cut with another width of one group.

        Raises:
            SpaceError: the width is not allowed, or the group is in a block that is replaced or dropped.
        """
        return self._checked(replace(cut, widths={**cut.widths, self.plan.group(group).name: width}))

    def without_block(self, cut: Cut, block: int) -> Cut:
        """Return a cut with one block dropped, and without the widths inside of that block.

        Raises:
            SpaceError: the block cannot be dropped, or kept blocks come before it in the depth order.
        """
        return self.with_replacement(cut, block, DROPPED)

    def with_replacement(self, cut: Cut, block: int, name: str) -> Cut:
        """Return a cut with another replacement of one block; new groups inside of it are at their widest.

        Args:
            cut: a cut of the space.
            block: index of the block.
            name: one of ``choices[block]``.

        Raises:
            SpaceError: the replacement is not allowed.
        """
        if not 0 <= block < len(self.plan.blocks):
            raise SpaceError(
                f"the teacher has no block {block}; it has {len(self.plan.blocks)} blocks, counted from 0."
            )
        blocks = (*cut.blocks[:block], name, *cut.blocks[block + 1 :])
        active = active_groups(self.plan, blocks)
        widths = {group.name: cut.widths.get(group.name, self.widths[group.name][-1]) for group in active}
        return self._checked(replace(cut, widths=widths, blocks=blocks))

    def check(self, cut: Cut) -> None:
        """Check that a cut is in the space.

        Raises:
            SpaceError: it is not; the error names the group or block.
        """
        if len(cut.blocks) != len(self.choices):
            raise SpaceError(f"the cut has {len(cut.blocks)} blocks, and the teacher has {len(self.choices)}.")
        for index, (block, choices) in enumerate(zip(cut.blocks, self.choices)):
            if block not in choices:
                raise SpaceError(f"block {index} cannot be '{block}' in this space; allowed: {', '.join(choices)}.")
        dropped = [cut.blocks[index] == DROPPED for index in self.depth_order]
        if dropped != sorted(dropped, reverse=True):
            raise SpaceError(f"blocks of this space can only be dropped in the order {list(self.depth_order)}.")
        active = {group.name for group in active_groups(self.plan, cut.blocks)}
        for name in active - set(cut.widths):
            raise SpaceError(f"group '{name}' needs a width.")
        for name in set(cut.widths) - active:
            self.plan.group(name)
            raise SpaceError(f"group '{name}' cannot have a width, since its block is dropped or replaced.")
        for name, width in cut.widths.items():
            if width not in self.widths[name]:
                allowed = ", ".join(map(str, self.widths[name]))
                raise SpaceError(f"group '{name}' cannot keep {width} units in this space; allowed: {allowed}.")
        if self.start not in ("both", cut.start):
            raise SpaceError(f"students of this space start from {self.start} weights, not from {cut.start} ones.")

    def to_dict(self) -> dict[str, Any]:
        """Return the space as JSON values."""
        return {
            "plan": self.plan.to_dict(),
            "widths": {name: list(widths) for name, widths in self.widths.items()},
            "choices": [list(choices) for choices in self.choices],
            "depth_order": list(self.depth_order),
            "start": self.start,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CutSpace:
        """Return the space of a ``to_dict`` result."""
        return cls(
            plan=Plan.from_dict(values["plan"]),
            widths={name: tuple(widths) for name, widths in values["widths"].items()},
            choices=tuple(tuple(choices) for choices in values["choices"]),
            depth_order=tuple(values["depth_order"]),
            start=values["start"],
        )

    def _cut(self, widths: Mapping[str, int]) -> Cut:
        return Cut(widths, (UNPRUNED,) * len(self.choices), RANDOM if self.start == RANDOM else INHERITED)

    def _checked(self, cut: Cut) -> Cut:
        self.check(cut)
        return cut

    def _has_kind(self, index: int) -> bool:
        """Say whether a block has a ``kind``: it has several choices, or would have no parameters otherwise."""
        return len(self.choices[index]) > 1 or not self.plan.inner(index)

    def _block_parameters(self, index: int) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        if index in self.depth_order:
            # The n-th block of the order is kept at the depths that drop fewer than n blocks.
            depths = range(len(self.depth_order) - self.depth_order.index(index), len(self.depth_order) + 1)
            choices = [name for name in self.choices[index] if name != DROPPED]
            parameters["kind"] = {"choice": choices, "when": {"depth": list(depths)}}
        elif self._has_kind(index):
            parameters["kind"] = list(self.choices[index])
        if inner := [{"width": list(self.widths[group.name])} for group in self.plan.inner(index)]:
            when = {"when": {"kind": [UNPRUNED]}} if parameters else {}
            parameters["inner"] = {"each": inner, **when}
        return parameters

    def _block_values(self, cut: Cut, index: int) -> dict[str, Any]:
        if index in self.depth_order and cut.blocks[index] == DROPPED:
            return {}
        values: dict[str, Any] = {"kind": cut.blocks[index]} if self._has_kind(index) else {}
        if cut.blocks[index] == UNPRUNED and (inner := self.plan.inner(index)):
            values["inner"] = [{"width": cut.widths[group.name]} for group in inner]
        return values


def decode(plan: Plan, values: Mapping[str, Any]) -> Cut:
    """Return the cut that the parameters of any ``CutSpace`` of a plan represent, as builders receive them.

    Args:
        plan: the plan of the space.
        values: parameters of the architecture; groups and blocks that are missing are not cut.

    Raises:
        SpaceError: the values do not fit the plan.
    """
    unknown = sorted(set(values) - set(_PARAMETERS))
    if unknown:
        near = did_you_mean(unknown[0], _PARAMETERS)
        raise SpaceError(f"a student cut from a teacher has no parameter '{unknown[0]}'{near}")
    try:
        widths = dict(_read_widths(plan.shared, values.get("shared", ()), "shared"))
        blocks: dict[int, str] = {}
        entries = values.get("blocks", ())
        if len(entries) > len(plan.blocks):
            raise SpaceError(f"blocks has {len(entries)} entries, and the teacher {len(plan.blocks)} blocks.")
        for index, entry in enumerate(entries):
            # In a space with a depth order, dropped blocks have no parameters.
            dropped = values.get("depth") is not None and plan.blocks[index].droppable and "kind" not in entry
            blocks[index] = DROPPED if dropped else str(entry.get("kind", UNPRUNED))
            if blocks[index] == UNPRUNED:
                widths.update(_read_widths(plan.inner(index), entry.get("inner", ()), f"blocks.{index}.inner"))
        return Cut.of(plan, widths, blocks, start=RANDOM if start_of(values) == RANDOM else INHERITED)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpaceError(f"the values are not those of a student cut from a teacher ({error!r}).") from error


def start_of(values: Mapping[str, Any]) -> Start | None:
    """Return the initial weights that an architecture chooses; None if its space has no such choice."""
    start = values.get("start")
    return start if start in (INHERITED, RANDOM) else None


def multiple_for(plan: Plan) -> int:
    """Return the default multiple to which numbers of channels are rounded up: a power of two, at most 8.

    It is at most a quarter of the narrowest shared width (of any width, if none is shared), so that the narrowest
    layers have several widths to choose from.
    """
    widths = [
        group.size * _channels(group) for group in plan.shared or plan.groups if group.kind in ("channels", "neurons")
    ]
    quarter = max(1, min(widths, default=32) // 4)
    return int(min(8, 2 ** int(math.log2(quarter))))


def _read_widths(
    groups: Sequence[Group], entries: Sequence[Mapping[str, Any]], where: str
) -> Iterator[tuple[str, int]]:
    if len(entries) > len(groups):
        raise SpaceError(f"{where} has {len(entries)} entries, and the teacher has {len(groups)} groups there.")
    for group, entry in zip(groups, entries):
        yield group.name, int(entry["width"])


def _widths(group: Group, shares: Sequence[float], multiple: int) -> tuple[int, ...]:
    """Return the numbers of units that a group may keep, ascending."""
    step = 1 if group.kind == "heads" else math.ceil(multiple / _channels(group))
    # Rounded, so that a share such as 0.3 of 10 units is 3 in spite of floating-point error.
    kept = (math.ceil(round(share * group.size, 6) / step) * step for share in shares)
    return tuple(sorted({min(group.size, max(1, units)) for units in kept}))


def _channels(group: Group) -> int:
    """Return the number of channels per unit in the layer that makes it."""
    return next((len(slot.indices[0]) for slot in group.slots if slot.side == "out"), 1)
