"""Candidates assembled of blocks that were distilled one by one, for a search and for whoever looks at its run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from nas_distill.blockwise.assembled import Assembly, assemblies, block_scores, front
from nas_distill.blockwise.costs import ADDITIVE
from nas_distill.blockwise.fit import MINIMUM, BlockWeights, fit
from nas_distill.blockwise.library import Library
from nas_distill.config import BlockwiseConfig
from nas_distill.cost.budget import Limit
from nas_distill.space import Architecture, SearchSpace

STEP = 0.85
"""Ratio of the limits, from the budget's own down, for which the front is swept."""


class LibraryAssembler:
    """Proposes the assemblies that local scores call best within the budget, from dear to cheap along the front.

    Once enough of them were trained, the weights of blocks are fitted to what was seen, and the assemblies that are
    best by these follow: local scores mislead, so what they call best is always trained too (implements
    ``engine.assembling.Assembler``).

    Args:
        library: of trained blocks.
        space: that it was made for.
        limits: of the budget; those on costs that do not add up are left to the search, which counts whole networks.
        by: the cost along which the front is swept.
        settings: how many assemblies, how unlike, by which score.
        alone: whether the search ends with them.
        seed: of the fit's bootstrap.
    """

    def __init__(
        self,
        library: Library,
        space: SearchSpace,
        limits: Mapping[str, Limit],
        *,
        by: str,
        settings: BlockwiseConfig,
        alone: bool,
        seed: int,
    ) -> None:
        self._library = library
        self._space = space
        self._limits = {name: limit for name, limit in limits.items() if name in ADDITIVE}
        self._by = by if by in ADDITIVE else "flops"
        self._settings = settings
        self._alone = alone
        self._seed = seed
        self._first: list[Architecture] | None = None
        self._fitted: tuple[int, list[Architecture]] = (0, [])

    @property
    def alone(self) -> bool:
        """Whether the search ends with its proposals."""
        return self._alone

    def propose(self, scored: Sequence[tuple[Architecture, float]], seen: Collection[str]) -> Architecture | None:
        """Return the best assembly that was not looked at yet, None when there are no more; see ``Assembler``."""
        if self._first is None:
            self._first = self.assemble(None)
        for architecture in self._first:
            if architecture.hash not in seen:
                return architecture
        return next((each for each in self._by_fit(scored) if each.hash not in seen), None)

    def fit(self, scored: Sequence[tuple[Architecture, float]]) -> BlockWeights | None:
        """Return the weights of blocks that qualities speak for; None while there are too few of known blocks."""
        known = [
            (scores, quality)
            for architecture, quality in scored
            if (scores := block_scores(self._library, architecture.to_dict(), self._settings.score)) is not None
        ]
        if len(known) < MINIMUM:
            return None
        return fit([scores for scores, _ in known], [quality for _, quality in known], seed=self._seed)

    def assemble(self, weights: Sequence[float] | None) -> list[Architecture]:
        """Return ``settings.solutions`` assemblies, half of them along the front, the others the best and unlike.

        The dearest of the front come first, since they are what the budget is for.
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
        return self._space.validate(assembly.values)
