"""What a space of cuts allows, read from its parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nas_distill.common.errors import SpaceError
from nas_distill.cut.plan import Plan
from nas_distill.space import SearchSpace
from nas_distill.space.tree import Each, Node, Parameter


@dataclass(frozen=True)
class BlockChoices:
    """Kinds of one block (none: it is whole), and the widths of each group inside of it."""

    kinds: tuple[str, ...]
    inner: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Allowed:
    """What the architectures of a space choose from.

    Attributes:
        start: whether they choose their initial weights.
        depth: where they choose how many blocks stay, the blocks in the order in which they go; else empty.
        shared: the widths of each shared group, in the plan's order.
        blocks: what each block chooses from.
    """

    start: bool
    depth: tuple[int, ...]
    shared: tuple[tuple[int, ...], ...]
    blocks: tuple[BlockChoices, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Allowed:
        """Read what ``dataclasses.asdict`` made of one, also after JSON turned tuples into lists."""
        blocks = [
            BlockChoices(tuple(block["kinds"]), tuple(tuple(widths) for widths in block["inner"]))
            for block in values["blocks"]
        ]
        shared = tuple(tuple(widths) for widths in values["shared"])
        return cls(values["start"], tuple(values["depth"]), shared, tuple(blocks))


def allowed(space: SearchSpace, plan: Plan) -> Allowed:
    """Read the space that ``cut_space`` made of a plan.

    Raises:
        SpaceError: it made this space of another plan, or not at all.
    """
    try:
        nodes = {node.name: node for node in space.parameters}
        shared = tuple(_widths(item) for item in _items(nodes.get("shared")))
        items = _items(nodes["blocks"])
        blocks = []
        stays: dict[int, int] = {}
        for index, item in enumerate(items):
            inside = {node.name: node for node in item}
            kind = inside.get("kind")
            kinds = () if kind is None else _values(kind)
            if kind is not None and kind.when:
                stays[index] = min(int(value) for one in kind.when for value in one.values)  # type: ignore[arg-type]
                kinds = ("drop", *kinds)
            blocks.append(BlockChoices(kinds, tuple(_widths(part) for part in _items(inside.get("inner")))))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise SpaceError(f"space '{space.name}' is not one of students cut from a teacher.") from error
    sizes = [len(plan.inner(index)) for index in range(len(plan.blocks))]
    if len(shared) != len(plan.shared) or [len(block.inner) for block in blocks] != sizes:
        raise SpaceError(f"space '{space.name}' was cut from another teacher than the plan.")
    # The block that goes first is there only at the largest depth.
    order = sorted(stays, key=lambda index: -stays[index])
    return Allowed("start" in nodes, tuple(order), shared, tuple(blocks))


def _items(node: Node | None) -> tuple[tuple[Node, ...], ...]:
    if node is None:
        return ()
    if not isinstance(node, Each):
        raise TypeError(f"{node.name} is no list")
    return node.items


def _widths(item: Iterable[Node]) -> tuple[int, ...]:
    (width,) = item
    return tuple(sorted(int(value) for value in _values(width)))


def _values(node: Node) -> tuple[str, ...]:
    if not isinstance(node, Parameter):
        raise TypeError(f"{node.name} has no values")
    return tuple(node.domain.values)  # type: ignore[arg-type]
