"""Assembly of students from distilled blocks, in a search and for other budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_distill.blockwise.assembler import Assembly, LibraryAssembler, assemblies
from nas_distill.blockwise.fit import BlockWeights
from nas_distill.blockwise.library import CONTENT, Library
from nas_distill.costs.budget import Budget
from nas_distill.costs.counting import count as count_costs
from nas_distill.reports import formatting
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.records import TrialRecord
from nas_distill.spaces import Architecture
from nas_distill.study.cutting import Cutting
from nas_distill.study.problem import SearchProblem
from nas_distill.utils.errors import RunError


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
        library, budget.limits, by="flops", settings=settings, exclusive=True, seed=problem.config.seed
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
