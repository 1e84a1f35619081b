"""Assembly of architectures from a library's alternatives, within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nas_distill.blockwise.alternatives import Option, Place, Selection
from nas_distill.blockwise.costs import check_additive
from nas_distill.blockwise.ilp import diverse, sweep
from nas_distill.blockwise.library import Library
from nas_distill.costs.budget import Limit
from nas_distill.pruning.plan import DROPPED, RANDOM, Cut

ScoreName = Literal["kl", "nsr", "relative_l1"]
SCORES: tuple[ScoreName, ...] = ("kl", "nsr", "relative_l1")


@dataclass(frozen=True)
class Assembly:
    """A student, and what is predicted of it.

    Attributes:
        cut: in the space that the library was made for.
        alternatives: the keys of its blocks' alternatives.
        costs: predicted, by adding up; what the assembled network really has is to be counted on it.
        score: the (weighted) sum of its local scores; lower is better.
        block_scores: the local score of each block, and of the width of each group that something outside of the blocks
            reads, unweighted: what ``fit`` takes.
    """

    cut: Cut
    alternatives: tuple[str, ...]
    costs: Mapping[str, float]
    score: float
    block_scores: tuple[float, ...]


def assemblies(
    library: Library,
    limits: Mapping[str, Limit],
    *,
    count: int = 12,
    score: ScoreName = "relative_l1",
    weights: Sequence[float] | None = None,
    overlap: float = 0.8,
) -> list[Assembly]:
    """Return the best assemblies within the limits, any two alike in at most ``overlap`` of the blocks; best first.

    Nothing is trained or run: it takes seconds. Fewer come back where there are no more.

    Args:
        library: what there is to assemble.
        limits: on costs that are sums over blocks (``costs.ADDITIVE``), in their plain units.
        count: how many.
        score: by which of the local scores.
        weights: one for each of an assembly's ``block_scores`` (``fit``); all 1 if None.
        overlap: share of the blocks in which two may be alike; they are never alike in all.

    Raises:
        BudgetError: nothing fits, and which limits cannot be met; or a limit on a cost that is no sum over blocks.
    """
    check_additive(list(limits))
    places = make_places(library, score=score, weights=weights)
    return [_assembly(library, one, score) for one in diverse(places, limits, count=count, overlap=overlap)]


def front(
    library: Library,
    limits: Mapping[str, Limit],
    cost: str,
    *,
    points: int | Sequence[float] = 20,
    score: ScoreName = "relative_l1",
    weights: Sequence[float] | None = None,
) -> list[Assembly]:
    """Return the front of predicted score against one cost, from cheap to dear; see ``assemblies`` and ``sweep``."""
    check_additive([*limits, cost])
    places = make_places(library, score=score, weights=weights)
    return [_assembly(library, one, score) for one in sweep(places, limits, cost, points)]


def block_scores(library: Library, cut: Cut, score: ScoreName) -> tuple[float, ...] | None:
    """Return a student's local scores as ``Assembly`` has them; None if the library does not have them all.

    Nor does it have those of a student that starts from random weights: its blocks are not the library's.
    """
    if cut.start == RANDOM:
        return None
    alternatives = library.alternatives
    entries = alternatives.of_cut(cut)
    read = [(group, cut.widths[group]) for group in alternatives.read_outside()]
    if any(entry.key not in library.scores for entry in entries) or any(
        one not in library.width_scores for one in read
    ):
        return None
    found = [*(library.scores[entry.key] for entry in entries), *(library.width_scores[one] for one in read)]
    return tuple(getattr(one, score) for one in found)


def make_places(
    library: Library, *, score: ScoreName = "relative_l1", weights: Sequence[float] | None = None
) -> list[Place]:
    """Return the blocks, and after them what is around them, as places of an assembly."""
    alternatives, costs = library.alternatives, library.costs
    plan, order, read = alternatives.plan, alternatives.space.depth_order, alternatives.read_outside()
    weights = [1.0] * (len(plan.blocks) + len(read)) if weights is None else weights
    places = []
    for (index, block), weight in zip(enumerate(plan.blocks), weights):
        options = []
        for entry in alternatives.of_block(index):
            gone = {_gone(index): int(entry.replacement == DROPPED)} if index in order else {}
            local: float = getattr(library.scores[entry.key], score)
            options.append(
                Option(entry.key, weight * local, costs.entries[entry.key], alternatives.widths(entry) | gone)
            )
        places.append(Place(block.module, tuple(options)))
    for (group, widths), weight in zip(read.items(), weights[len(plan.blocks) :], strict=True):
        options = [
            Option("", weight * getattr(library.width_scores[group, width], score), {}, {group: width})
            for width in widths
        ]
        places.append(_around(f"what reads {group}", options))
    places.append(_around("around the blocks", [Option("", 0.0, costs.base)]))
    for part in costs.parts:
        options = [
            Option("", 0.0, cost, dict(zip(part.groups, widths, strict=True))) for widths, cost in part.costs.items()
        ]
        places.append(_around(f"width of {' and '.join(part.groups)}", options))
    if order:
        # Where depth is a number, the blocks that go are the first ones of the order.
        depths = [
            {_gone(block): int(place < gone) for place, block in enumerate(order)} for gone in range(len(order) + 1)
        ]
        places.append(_around("depth", [Option("", 0.0, {}, depth) for depth in depths]))
    return places


def _assembly(library: Library, selection: Selection, score: ScoreName) -> Assembly:
    alternatives = library.alternatives
    blocks = range(len(alternatives.plan.blocks))
    chosen = [alternatives.of_block(block)[selection.options[block]] for block in blocks]
    cut = alternatives.cut(chosen, selection.widths)
    local = block_scores(library, cut, score)
    assert local is not None  # it is of the library's alternatives
    return Assembly(
        cut=cut,
        alternatives=tuple(entry.key for entry in chosen),
        costs=selection.costs,
        score=selection.score,
        block_scores=local,
    )


def _around(name: str, options: Sequence[Option]) -> Place:
    return Place(name, tuple(options), counts=False)


def _gone(block: int) -> str:
    return f"block {block} is gone"
