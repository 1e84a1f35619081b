"""Assembly of students from distilled blocks, in a search and for other budgets."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_distill.blockwise.assembler import Assembly, assemblies, block_scores, front
from nas_distill.blockwise.costs import ADDITIVE
from nas_distill.blockwise.fit import MINIMUM, BlockWeights, fit
from nas_distill.blockwise.library import CONTENT, Library
from nas_distill.config import BlockwiseConfig
from nas_distill.costs.budget import Budget, Limit
from nas_distill.costs.counting import count as count_costs
from nas_distill.reports import formatting
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.records import TrialRecord
from nas_distill.spaces import Architecture
from nas_distill.study.cutting import Cutting
from nas_distill.study.problem import SearchProblem
from nas_distill.utils.errors import RunError

STEP = 0.85
"""Ratio of successive limits of the sweep along the front, starting at the budget's own."""


class LibraryAssembler:
    """Proposer of the best assemblies within the budget by local scores, from expensive to cheap along the front.

    After enough of them were trained, weights of blocks are fitted to their qualities, and the best assemblies by these
    weights follow. Local scores may mislead, so their best assemblies are always trained as well (implements
    ``engine.assembling.Assembler``).

    Args:
        library: of trained blocks.
        limits: of the budget; limits on costs that are not sums over blocks are checked by the search, per network.
        by: the cost along which the front is swept.
        settings: number of assemblies, their largest overlap, and the local score.
        alone: the search ends with these proposals.
        seed: of the fit's bootstrap.
    """

    def __init__(
        self,
        library: Library,
        limits: Mapping[str, Limit],
        *,
        by: str,
        settings: BlockwiseConfig,
        alone: bool,
        seed: int,
    ) -> None:
        self._library = library
        self._space = library.alternatives.space
        self._limits = {name: limit for name, limit in limits.items() if name in ADDITIVE}
        self._by = by if by in ADDITIVE else "flops"
        self._settings = settings
        self._alone = alone
        self._seed = seed
        self._first: list[Architecture] | None = None
        self._fitted: tuple[int, list[Architecture]] = (0, [])

    @property
    def alone(self) -> bool:
        """True if the search ends with these proposals."""
        return self._alone

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


def describe_alternatives(count: int, cutting: Cutting, epochs: float) -> str:
    """Return a sentence on the alternatives that are distilled before candidates can be assembled."""
    blocks = formatting.count(len(cutting.plan.blocks), "block")
    length = f"{epochs:g} epoch{'' if epochs == 1 else 's'}"
    return f"{formatting.count(count, 'alternative')} of {blocks}, distilled in parallel for {length}, then scored."


def scored(records: Sequence[TrialRecord]) -> list[tuple[Architecture, float]]:
    """Return the candidates that completed their last rung, with their quality."""
    return [
        (record.architecture, record.quality)
        for record in records
        if record.state == "complete" and record.quality is not None
    ]


@dataclass(frozen=True)
class CountedAssembly:
    """An assembly for a budget, found without training, with the costs of its whole network.

    Attributes:
        architecture: in the run's space.
        blocks: names of its alternatives.
        costs: of the whole network, counted.
        predicted: costs as sums over its parts, by which it was found.
        score: the (weighted) sum of its local scores; lower is better.
        expected: expected quality of a short distillation, by weights fitted to the trained assemblies, at most 1;
            None where too few were trained.
        trial: number of the run's trial of this architecture; None if it was not trained.
    """

    architecture: Architecture
    blocks: tuple[str, ...]
    costs: Mapping[str, float]
    predicted: Mapping[str, float]
    score: float
    expected: float | None
    trial: int | None

    def row(self) -> dict[str, Any]:
        """Return it as plain values."""
        counted = {name: self.costs[name] for name in self.predicted}
        return {
            "score": self.score,
            "expected": self.expected,
            **counted,
            **{f"{name} predicted": value for name, value in self.predicted.items()},
            "trial": self.trial,
            "blocks": list(self.blocks),
            "architecture": self.architecture.to_dict(),
        }


def assemble(
    problem: SearchProblem, folder: RunFolder, records: Sequence[TrialRecord], budget: Budget, *, count: int
) -> list[CountedAssembly]:
    """Return the best assemblies of a run's blocks within another budget, best first.

    Raises:
        RunError: the run has no distilled blocks.
        BudgetError: nothing fits, or a limit is on a cost that is not a sum over blocks.
    """
    blocks = problem.blocks_folder(folder)
    if not (blocks / CONTENT).exists():
        raise RunError(
            f"{folder.path} has no library of blocks ({blocks}); search with strategy 'blockwise' or 'hybrid' to "
            "make one."
        )
    library = Library.load(blocks)
    settings = problem.config.blockwise
    assembler = LibraryAssembler(
        library, budget.limits, by="flops", settings=settings, alone=True, seed=problem.config.seed
    )
    fitted = assembler.fit(scored(records))
    found = assemblies(
        library,
        budget.limits,
        count=count,
        score=settings.score,
        weights=None if fitted is None else fitted.weights,
        overlap=settings.overlap,
    )
    trials = {record.architecture.hash: record.number for record in reversed(records) if record.trained}
    return [_counted(problem, library, assembly, fitted, trials) for assembly in found]


def _counted(
    problem: SearchProblem, library: Library, assembly: Assembly, fitted: BlockWeights | None, trials: Mapping[str, int]
) -> CountedAssembly:
    architecture = library.alternatives.space.encode(assembly.cut)
    module = problem.build(architecture, problem.config.seed, stream="costing")
    return CountedAssembly(
        architecture=architecture,
        blocks=assembly.alternatives,
        costs=count_costs(module, problem.input_shape, list(assembly.costs)),
        predicted=assembly.costs,
        score=assembly.score,
        expected=None if fitted is None else min(1.0, fitted.predict(assembly.block_scores)),
        trial=trials.get(architecture.hash),
    )
