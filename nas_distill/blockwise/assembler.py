"""Assembly of architectures from a library's alternatives, within limits on costs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nas_distill.blockwise.alternatives import Decision, Option, Selection
from nas_distill.blockwise.costs import ADDITIVE, check_additive
from nas_distill.blockwise.fit import MINIMUM, BlockWeights, fit
from nas_distill.blockwise.ilp import diverse, sweep
from nas_distill.blockwise.library import Library
from nas_distill.config import BlockwiseConfig
from nas_distill.costs.budget import Limit
from nas_distill.pruning.plan import DROPPED, RANDOM, Cut
from nas_distill.spaces import Architecture

ScoreName = Literal["kl", "nsr", "relative_l1"]
SCORES: tuple[ScoreName, ...] = ("kl", "nsr", "relative_l1")


@dataclass(frozen=True)
class Assembly:
    """A student assembled from alternatives, with predicted costs and score.

    Attributes:
        cut: in the space of the library.
        alternatives: the keys of its blocks' alternatives.
        costs: predicted as sums over parts; exact costs must be counted on the assembled network.
        score: the (weighted) sum of its local scores; lower is better.
        block_scores: the unweighted local score of each block, and of the width of each group that is read outside of
            the blocks, as ``fit`` takes them.
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

    Nothing is trained or run; it takes seconds. The list is shorter than ``count`` if no others exist.

    Args:
        library: of alternatives.
        limits: on costs that are sums over blocks (``costs.ADDITIVE``), in their plain units.
        count: number of assemblies.
        score: the local score to minimise.
        weights: one per entry of ``Assembly.block_scores`` (from ``fit``); all 1 if None.
        overlap: share of the blocks in which two assemblies may be alike; they are never alike in all blocks.

    Raises:
        BudgetError: nothing fits (the error names the limits in conflict), or a cost is not a sum over blocks.
    """
    check_additive(list(limits))
    decisions = make_decisions(library, score=score, weights=weights)
    return [_assembly(library, one, score) for one in diverse(decisions, limits, count=count, overlap=overlap)]


def front(
    library: Library,
    limits: Mapping[str, Limit],
    cost: str,
    *,
    points: int | Sequence[float] = 20,
    score: ScoreName = "relative_l1",
    weights: Sequence[float] | None = None,
) -> list[Assembly]:
    """Return the front of predicted score and one cost, from cheap to expensive; see ``assemblies`` and ``sweep``."""
    check_additive([*limits, cost])
    decisions = make_decisions(library, score=score, weights=weights)
    return [_assembly(library, one, score) for one in sweep(decisions, limits, cost, points)]


def block_scores(library: Library, cut: Cut, score: ScoreName) -> tuple[float, ...] | None:
    """Return a student's local scores as in ``Assembly``; None if the library does not have them all.

    A student that starts from random weights has none, since its blocks are not the library's.
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


def make_decisions(
    library: Library, *, score: ScoreName = "relative_l1", weights: Sequence[float] | None = None
) -> list[Decision]:
    """Return the decisions of an assembly: one per block, followed by those outside of the blocks."""
    alternatives, costs = library.alternatives, library.costs
    plan, order, read = alternatives.plan, alternatives.space.depth_order, alternatives.read_outside()
    weights = [1.0] * (len(plan.blocks) + len(read)) if weights is None else weights
    decisions = []
    for (index, block), weight in zip(enumerate(plan.blocks), weights):
        options = []
        for entry in alternatives.of_block(index):
            dropped = {_dropped(index): int(entry.replacement == DROPPED)} if index in order else {}
            local: float = getattr(library.scores[entry.key], score)
            options.append(
                Option(entry.key, weight * local, costs.entries[entry.key], alternatives.widths(entry) | dropped)
            )
        decisions.append(Decision(block.module, tuple(options)))
    for (group, widths), weight in zip(read.items(), weights[len(plan.blocks) :], strict=True):
        options = [
            Option("", weight * getattr(library.width_scores[group, width], score), {}, {group: width})
            for width in widths
        ]
        decisions.append(_outside(f"readers of {group}", options))
    decisions.append(_outside("outside of the blocks", [Option("", 0.0, costs.base)]))
    for part in costs.parts:
        options = [
            Option("", 0.0, cost, dict(zip(part.groups, widths, strict=True))) for widths, cost in part.costs.items()
        ]
        decisions.append(_outside(f"width of {' and '.join(part.groups)}", options))
    if order:
        # In a space with a depth order, the dropped blocks are the first ones of the order.
        depths = [
            {_dropped(block): int(position < drops) for position, block in enumerate(order)}
            for drops in range(len(order) + 1)
        ]
        decisions.append(_outside("depth", [Option("", 0.0, {}, depth) for depth in depths]))
    return decisions


def _assembly(library: Library, selection: Selection, score: ScoreName) -> Assembly:
    alternatives = library.alternatives
    blocks = range(len(alternatives.plan.blocks))
    chosen = [alternatives.of_block(block)[selection.options[block]] for block in blocks]
    cut = alternatives.cut(chosen, selection.widths)
    local = block_scores(library, cut, score)
    assert local is not None  # the cut consists of the library's alternatives
    return Assembly(
        cut=cut,
        alternatives=tuple(entry.key for entry in chosen),
        costs=selection.costs,
        score=selection.score,
        block_scores=local,
    )


def _outside(name: str, options: Sequence[Option]) -> Decision:
    return Decision(name, tuple(options), counts=False)


def _dropped(block: int) -> str:
    return f"block {block} is dropped"


STEP = 0.85
"""Ratio of successive limits of the sweep along the front, starting at the budget's own."""


class LibraryAssembler:
    """Proposer of the best assemblies within the budget by local scores, from expensive to cheap along the front.

    After enough of them were trained, weights of blocks are fitted to their qualities, and the best assemblies by these
    weights follow. Local scores may mislead, so their best assemblies are always trained as well (implements
    ``engine.proposals.Assembler``).

    Args:
        library: of trained blocks.
        limits: of the budget; limits on costs that are not sums over blocks are checked by the search, per network.
        by: the cost along which the front is swept.
        settings: number of assemblies, their largest overlap, and the local score.
        exclusive: the search ends with these proposals.
        seed: of the fit's bootstrap.
    """

    def __init__(
        self,
        library: Library,
        limits: Mapping[str, Limit],
        *,
        by: str,
        settings: BlockwiseConfig,
        exclusive: bool,
        seed: int,
    ) -> None:
        self._library = library
        self._space = library.alternatives.space
        self._limits = {name: limit for name, limit in limits.items() if name in ADDITIVE}
        self._by = by if by in ADDITIVE else "flops"
        self._settings = settings
        self._exclusive = exclusive
        self._seed = seed
        self._first: list[Architecture] | None = None
        self._fitted: tuple[int, list[Architecture]] = (0, [])

    origin = "assembled"

    @property
    def exclusive(self) -> bool:
        """True if the search ends with these proposals."""
        return self._exclusive

    def propose(self, scored: Sequence[tuple[Architecture, float]], seen: Collection[str]) -> Architecture | None:
        """Return the best assembly that was not proposed yet, None after the last; see ``Assembler``."""
        if self._first is None:
            self._first = self.assemble(None)
        for architecture in self._first:
            if architecture.hash not in seen:
                return architecture
        return next((each for each in self._by_fit(scored) if each.hash not in seen), None)

    def fit(self, scored: Sequence[tuple[Architecture, float]]) -> BlockWeights | None:
        """Return block weights fitted to qualities; None while too few candidates consist of library blocks."""
        known = [
            (scores, quality)
            for architecture, quality in scored
            if (scores := block_scores(self._library, self._space.decode(architecture), self._settings.score))
            is not None
            and all(map(math.isfinite, scores))  # a block that diverged in training has no local score
        ]
        if len(known) < MINIMUM:
            return None
        return fit([scores for scores, _ in known], [quality for _, quality in known], seed=self._seed)

    def assemble(self, weights: Sequence[float] | None) -> list[Architecture]:
        """Return ``settings.solutions`` assemblies: half along the front, the others the best with limited overlap.

        The most expensive of the front come first, since they use the budget.
        """
        settings = self._settings
        high = self._limits[self._by].high if self._by in self._limits else None
        points = max(2, settings.solutions)
        swept = front(
            self._library,
            self._limits,
            self._by,
            points=points if high is None else [high * STEP**index for index in range(points)],
            score=settings.score,
            weights=weights,
        )
        best = assemblies(
            self._library,
            self._limits,
            count=settings.solutions,
            score=settings.score,
            weights=weights,
            overlap=settings.overlap,
        )
        half = max(1, settings.solutions // 2)
        chosen = dict.fromkeys(map(self._architecture, [*swept[::-1][:half], *best, *swept[::-1]]))
        return list(chosen)[: settings.solutions]

    def _by_fit(self, scored: Sequence[tuple[Architecture, float]]) -> list[Architecture]:
        count, found = self._fitted
        if count != len(scored):
            fitted = self.fit(scored)
            found = [] if fitted is None else self.assemble(fitted.weights)
            self._fitted = (len(scored), found)
        return found

    def _architecture(self, assembly: Assembly) -> Architecture:
        return self._space.encode(assembly.cut)
