"""The space of students cut from a teacher: its parameters, and what an architecture's values cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from nas_distill.common.errors import SpaceError
from nas_distill.cut.kinds import fits
from nas_distill.cut.plan import Block, Group, Plan
from nas_distill.cut.surgery import Cut
from nas_distill.space import SearchSpace

WIDTHS = (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


def cut_space(
    plan: Plan,
    *,
    builder: str | Callable[..., Any],
    arguments: Mapping[str, Any] | None = None,
    widths: Sequence[float] = WIDTHS,
    multiple: int = 8,
    depth: Literal["each", "whole"] | Sequence[int] = "each",
    kinds: Sequence[str] = (),
    start: Literal["inherited", "random", "both"] = "inherited",
    name: str = "from_teacher",
    paths: Sequence[str] = (),
) -> SearchSpace:
    """Return the space of what can be cut from a teacher.

    Its parameters, each from cheap to dear: ``start`` (only if ``both``); ``depth`` (only if an order is given), how
    many of the droppable blocks stay; ``shared``, a ``width`` for each shared group; ``blocks``, for each block its
    ``kind`` where there is a choice (``drop``, the cheaper kinds, ``whole``) and as long as it is whole the ``inner``
    groups' widths. Lists are in the plan's order; a width counts units.

    Args:
        plan: what can be cut.
        builder: makes a student of an architecture: ``nas_distill.cut.build:build``, or a ``CutBuilder``.
        arguments: its fixed keywords.
        widths: shares of its units that a group may keep.
        multiple: the channels or neurons kept are rounded up to a multiple of it (of heads to one).
        depth: ``each`` droppable block may go by itself; ``whole``, none; or an order of the droppable blocks' indices
            in which they go, the first one first.
        kinds: cheaper kinds that may stand in for blocks; see ``cut/kinds.py``.
        start: initial weights: the teacher's, random ones, or a parameter of each architecture.
        name: of the space.
        paths: folders where the builder's module is looked for.

    Raises:
        SpaceError: nothing can be cut, or a kind is unknown or fits no block.
    """
    for kind in kinds:
        if not any(fits(kind, block) for block in plan.blocks):
            raise SpaceError(f"kinds: '{kind}' fits no block of the teacher.")
    droppable = [index for index, block in enumerate(plan.blocks) if block.droppable]
    order = None if isinstance(depth, str) else [int(index) for index in depth]
    if order is not None and sorted(order) != droppable:
        raise SpaceError(f"depth: an order has each droppable block once ({droppable}), and {order} was given.")
    parameters: dict[str, Any] = {}
    if start == "both":
        parameters["start"] = ["random", "inherited"]
    if order:
        parameters["depth"] = {"int": [0, len(order)]}
    if plan.shared:
        parameters["shared"] = {"each": [{"width": _widths(group, widths, multiple)} for group in plan.shared]}
    blocks = [_block(plan, index, widths, multiple, depth == "each", order, kinds) for index in range(len(plan.blocks))]
    if blocks:
        parameters["blocks"] = {"each": blocks}
    if not plan.groups and not droppable and not kinds:
        why = f" ({plan.whole[0].module or 'the network'}: {plan.whole[0].reason})" if plan.whole else ""
        raise SpaceError(f"nothing can be cut from the teacher{why}; use a space of your own for its students.")
    return SearchSpace.from_dict(
        {"parameters": parameters, "arguments": dict(arguments or {})}, builder=builder, name=name, paths=paths
    )


def multiple_for(plan: Plan) -> int:
    """Return what channels are rounded up to unless told otherwise: a power of two, at most 8.

    It is at most a quarter of the narrowest width that blocks share (of any width, where they share none), so that the
    narrowest layers have widths to choose from.
    """
    widths = [
        group.size * _channels(group) for group in plan.shared or plan.groups if group.kind in ("channels", "neurons")
    ]
    quarter = max(1, min(widths, default=32) // 4)
    return int(min(8, 2 ** int(math.log2(quarter))))


def cut_of(plan: Plan, values: Mapping[str, Any], orders: Mapping[str, Sequence[int]] | None = None) -> Cut:
    """Return what an architecture of ``cut_space`` cuts from the teacher.

    Args:
        plan: the plan that the space was made of.
        values: of the architecture. What is missing is not cut.
        orders: for a group's name its units, the most important first: the best of them stay, in the teacher's order.
            The first units stay of groups that have none.

    Raises:
        SpaceError: there are more entries than groups or blocks.
    """
    orders = orders or {}
    keep: dict[str, tuple[int, ...]] = {}
    kinds: dict[int, str] = {}
    _keep(plan.shared, values.get("shared", ()), orders, keep, "shared")
    entries = values.get("blocks", ())
    if len(entries) > len(plan.blocks):
        raise SpaceError(f"blocks has {len(entries)} entries, and the teacher {len(plan.blocks)} blocks.")
    for index, entry in enumerate(entries):
        # Where 'depth' says how many blocks stay, those that go have no parameters.
        gone = "depth" in values and plan.blocks[index].droppable and "kind" not in entry
        kind = "drop" if gone else str(entry.get("kind", "whole"))
        if kind == "whole":
            _keep(plan.inner(index), entry.get("inner", ()), orders, keep, f"blocks.{index}.inner")
        else:
            kinds[index] = kind
    return Cut(keep, kinds)


def _keep(
    groups: Sequence[Group],
    entries: Sequence[Mapping[str, Any]],
    orders: Mapping[str, Sequence[int]],
    keep: dict[str, tuple[int, ...]],
    where: str,
) -> None:
    if len(entries) > len(groups):
        raise SpaceError(f"{where} has {len(entries)} entries, and there are {len(groups)} groups of the teacher.")
    for group, entry in zip(groups, entries):
        best = orders.get(group.name, range(group.size))
        width = int(entry["width"])
        if width < group.size:
            keep[group.name] = tuple(sorted(best[:width]))


def _block(
    plan: Plan,
    index: int,
    widths: Sequence[float],
    multiple: int,
    drops: bool,
    order: Sequence[int] | None,
    kinds: Sequence[str],
) -> dict[str, Any]:
    block = plan.blocks[index]
    choices = [*(["drop"] if drops and block.droppable else []), *_kinds(block, kinds), "whole"]
    inner = [{"width": _widths(group, widths, multiple)} for group in plan.inner(index)]
    parameters: dict[str, Any] = {}
    if order is not None and index in order:
        # The block that goes as the n-th is there while at least the others stay.
        stays = list(range(len(order) - order.index(index), len(order) + 1))
        parameters["kind"] = {"choice": choices, "when": {"depth": stays}}
    elif len(choices) > 1 or not inner:
        parameters["kind"] = choices
    if inner:
        when = {"when": {"kind": ["whole"]}} if "kind" in parameters else {}
        parameters["inner"] = {"each": inner, **when}
    return parameters


def _kinds(block: Block, kinds: Sequence[str]) -> list[str]:
    return [kind for kind in kinds if fits(kind, block)]


def _widths(group: Group, shares: Sequence[float], multiple: int) -> list[int]:
    """Return the numbers of units that a group may keep, rising."""
    step = 1 if group.kind == "heads" else math.ceil(multiple / _channels(group))
    # A share such as 0.3 of 10 units is 3, whatever the last bits of the product say.
    kept = (math.ceil(round(share * group.size, 6) / step) * step for share in shares)
    return sorted({min(group.size, max(1, units)) for units in kept})


def _channels(group: Group) -> int:
    """Return how many channels a unit has where it is made."""
    return next((len(slot.places[0]) for slot in group.slots if slot.side == "out"), 1)
