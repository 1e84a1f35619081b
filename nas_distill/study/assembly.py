"""Students for other budgets without a search: assembled from distilled blocks, or allocated by the run's judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_distill.allocation.search import LEVELS
from nas_distill.blockwise.assembler import Assembly, LibraryAssembler, assemblies
from nas_distill.blockwise.fit import BlockWeights
from nas_distill.blockwise.library import CONTENT, Library
from nas_distill.costs.budget import Budget
from nas_distill.costs.counting import count as count_costs
from nas_distill.reports import formatting
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.metadata import RunMetadata
from nas_distill.runs.records import TrialRecord
from nas_distill.spaces import Architecture
from nas_distill.study.allocation import search_cuts
from nas_distill.study.cutting import Cutting
from nas_distill.study.latency import restore_latency_predictor
from nas_distill.study.observer import Observer
from nas_distill.study.problem import SearchProblem
from nas_distill.study.signals import teacher_signal
from nas_distill.utils.errors import RunError
from nas_distill.utils.files import written_folders


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
    """A candidate for a budget, found without training, with the costs of its whole network.

    Attributes:
        architecture: in the run's space.
        blocks: names of its alternatives; of an allocation, the teacher's blocks that it keeps.
        costs: of the whole network, counted.
        predicted: costs as sums over its parts, by which it was found.
        score: the (weighted) sum of its local scores, or its divergence from the teacher before training, in nats;
            lower is better.
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
    trials = _trials(records)
    return [_counted(problem, library, assembly, fitted, trials) for assembly in found]


def reallocate(
    problem: SearchProblem,
    folder: RunFolder,
    metadata: RunMetadata,
    records: Sequence[TrialRecord],
    budget: Budget,
    observer: Observer,
    *,
    count: int,
) -> list[CountedAssembly]:
    """Return the cuts that spend another budget best before training, by the judge of an allocated run, best first.

    Raises:
        BudgetError: no cut is within the budget, or it has no upper limit.
    """
    assert problem.cutting is not None  # the strategy needs students that are cut from the teacher
    plan, cuts = problem.cutting.plan, problem.cutting.cuts
    timed = metadata.latency
    latency = None if timed is None else restore_latency_predictor(timed.model)
    with problem.candidates(written_folders(folder.path)) as candidates:
        pricing = problem.pricing(latency, None if timed is None else timed.teacher_ms, candidates)
        pricing.budget = budget
        signal = teacher_signal(problem, folder, observer, problem.config.score.training)
        (found, *_), _ = search_cuts(problem, problem.cutting, pricing, signal, folder, observer, LEVELS[:1])
        trials = _trials(records)
        result = []
        for one in found[:count]:
            architecture = cuts.encode(one.cut)
            costs = pricing(architecture)
            result.append(
                CountedAssembly(
                    architecture=architecture,
                    blocks=tuple(plan.blocks[place].module for place in one.cut.kept_blocks),
                    costs=costs,
                    predicted={name: costs[name] for name in budget.limits},
                    score=one.divergence,
                    expected=None,
                    trial=trials.get(architecture.hash),
                )
            )
    return result


def _trials(records: Sequence[TrialRecord]) -> dict[str, int]:
    """Return the first trained trial of each architecture, by hash."""
    return {record.architecture.hash: record.number for record in reversed(records) if record.trained}


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
