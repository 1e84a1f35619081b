"""Cuts: the choice of widths and blocks that makes one student of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nas_distill.common.errors import SpaceError
from nas_distill.cut.plan import DROPPED, UNPRUNED, Group, KeptUnits, Plan

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
