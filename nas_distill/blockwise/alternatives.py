"""What may stand in for each block of a teacher, and which architecture of the space each assembly is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nas_distill.blockwise.parameters import Allowed, allowed
from nas_distill.common.errors import ConfigError, SpaceError
from nas_distill.cut.plan import Block, Group, Plan
from nas_distill.space import SearchSpace

MOST = 3000
"""Alternatives above which nobody waits for their training."""

_AS_IT_IS = "whole"
_GONE = "drop"


@dataclass(frozen=True)
class Alternative:
    """One way to make one block.

    Attributes:
        block: index of the block.
        kind: ``whole`` (cut from the teacher's), ``drop``, or a cheaper kind (see ``cut/kinds.py``).
        input: units that are kept of the group of its input channels, None where they are no choice.
        output: likewise of its output channels.
        inner: units that are kept of the groups inside of it, in the plan's order; empty unless it is ``whole``.
    """

    block: int
    kind: str
    input: int | None
    output: int | None
    inner: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """A name that no other alternative of this teacher has, fit for files."""
        ends = [f"{side}{width}" for side, width in (("in", self.input), ("out", self.output)) if width is not None]
        inner = ["x".join(map(str, self.inner))] if self.inner else []
        return "-".join([f"block{self.block}", self.kind, *ends, *inner])


@dataclass(frozen=True)
class Alternatives:
    """All alternatives of all blocks, and the widths of the groups that blocks share.

    Attributes:
        plan: what can be cut from the teacher.
        entries: in the order of blocks, from narrow to wide.
        shared: for each shared group the widths that are tried, rising.
        allowed: what the space allows.
    """

    plan: Plan
    entries: tuple[Alternative, ...]
    shared: Mapping[str, tuple[int, ...]]
    allowed: Allowed

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

    def values(self, chosen: Sequence[Alternative], widths: Mapping[str, int]) -> dict[str, Any]:
        """Return the values of the architecture that has these alternatives, one of each block in their order.

        ``widths``: of the shared groups; the largest tried where they are missing.
        """
        allowed = self.allowed
        entries: list[dict[str, Any]] = []
        for entry, choices in zip(chosen, allowed.blocks, strict=True):
            gone = entry.block in allowed.depth and entry.kind == _GONE
            parts: dict[str, Any] = {} if gone or not choices.kinds else {"kind": entry.kind}
            if entry.kind == _AS_IT_IS and choices.inner:
                parts["inner"] = [{"width": width} for width in entry.inner]
            entries.append(parts)
        values: dict[str, Any] = {"start": "inherited"} if allowed.start else {}
        if allowed.depth:
            values["depth"] = sum(chosen[block].kind != _GONE for block in allowed.depth)
        if self.plan.shared:
            values["shared"] = [
                {"width": widths.get(group.name, max(self.shared[group.name]))} for group in self.plan.shared
            ]
        return {**values, "blocks": entries}

    def cut_values(self, chosen: Mapping[int, Alternative], widths: Mapping[str, int]) -> dict[str, Any]:
        """Return what to cut from the teacher for some blocks' alternatives and widths, all else being left whole."""
        shared = [{"width": widths.get(group.name, group.size)} for group in self.plan.shared]
        blocks: list[dict[str, Any]] = [{} for _ in self.plan.blocks]
        for block, entry in chosen.items():
            blocks[block] = {"kind": entry.kind, "inner": [{"width": width} for width in entry.inner]}
        return {"shared": shared, "blocks": blocks}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "plan": self.plan.to_dict(),
            "entries": [asdict(entry) for entry in self.entries],
            "shared": {group: list(widths) for group, widths in self.shared.items()},
            "allowed": asdict(self.allowed),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Alternatives:
        """Read what ``to_dict`` wrote."""
        return cls(
            plan=Plan.from_dict(values["plan"]),
            entries=tuple(Alternative(**{**entry, "inner": tuple(entry["inner"])}) for entry in values["entries"]),
            shared={group: tuple(widths) for group, widths in values["shared"].items()},
            allowed=Allowed.from_dict(values["allowed"]),
        )

    def shared_widths(self, values: Mapping[str, Any]) -> dict[str, int]:
        """Return the width of each shared group in an architecture."""
        return {group.name: part["width"] for group, part in zip(self.plan.shared, values.get("shared", ()))}

    def of_values(self, values: Mapping[str, Any]) -> list[Alternative]:
        """Return how an architecture makes each block, whether or not that is among the alternatives here."""
        widths = self.shared_widths(values)
        found = []
        for index, (block, parts) in enumerate(zip(self.plan.blocks, values["blocks"], strict=True)):
            gone = index in self.allowed.depth and "kind" not in parts
            inner = tuple(part["width"] for part in parts.get("inner", ()))
            kind = _GONE if gone else parts.get("kind", _AS_IT_IS)
            input, output = (None if group is None else widths[group] for group in (block.input, block.output))
            found.append(Alternative(index, kind, input, output, inner))
        return found


def find_alternatives(
    space: SearchSpace, plan: Plan, *, trunk: Sequence[float], widths: Sequence[float]
) -> Alternatives:
    """Return the alternatives of a space that was cut from a teacher.

    Args:
        space: of ``cut_space``.
        plan: what it was made of.
        trunk: shares of their units that the shared groups are tried at, rounded up to what the space allows.
        widths: shares for the groups inside of a block, all at one share.

    Raises:
        SpaceError: the space was not made of the plan, or cannot be made of blocks that are trained apart.
        ConfigError: there are more than ``MOST``.
    """
    choices = allowed(space, plan)
    held = _held(plan)
    shared: dict[str, tuple[int, ...]] = {}
    for group, own in zip(plan.shared, choices.shared, strict=True):
        if group.name in held and max(own) < group.size:
            raise SpaceError(
                f"blockwise distillation keeps group '{group.name}' whole, since the channels at an end of block "
                f"'{plan.blocks[held[group.name]].module}' are of several groups; add 1.0 to the space's widths."
            )
        shared[group.name] = (group.size,) if group.name in held else _at(trunk, group, own)
    entries: list[Alternative] = []
    for index, block in enumerate(plan.blocks):
        own_inner = choices.blocks[index].inner
        inner = dict.fromkeys(
            tuple(_at([share], group, own)[0] for group, own in zip(plan.inner(index), own_inner, strict=True))
            for share in sorted(widths)
        )
        for kind in choices.blocks[index].kinds or (_AS_IT_IS,):
            entries += [
                Alternative(index, kind, *ends, within)
                for ends in _ends(block, shared)
                for within in (inner if kind == _AS_IT_IS else [()])
            ]
    if len(entries) > MOST:
        raise ConfigError(
            f"blockwise: the {len(plan.blocks)} blocks have {len(entries)} alternatives, and at most {MOST} are "
            "trained; give fewer shares for 'trunk' or 'widths'."
        )
    return Alternatives(plan, tuple(entries), shared, choices)


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


def _at(shares: Sequence[float], group: Group, choices: Sequence[int]) -> tuple[int, ...]:
    """Return the least allowed widths that are not below these shares of a group's units, rising."""
    return tuple(
        sorted(
            {min((c for c in choices if c >= round(share * group.size, 6)), default=max(choices)) for share in shares}
        )
    )


def _ends(block: Block, shared: Mapping[str, tuple[int, ...]]) -> list[tuple[int | None, int | None]]:
    """Return the pairs of input and output width that a block is tried at."""
    ins: Sequence[int | None] = (None,) if block.input is None else shared[block.input]
    if block.input is not None and block.input == block.output:
        return [(width, width) for width in ins]
    return list(itertools.product(ins, (None,) if block.output is None else shared[block.output]))
