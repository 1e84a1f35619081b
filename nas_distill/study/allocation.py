"""Allocation of the budget in a search whose students are cut from the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nas_distill.allocation.assembler import AllocatedCandidates, JudgePool
from nas_distill.allocation.filling import Filler
from nas_distill.allocation.judge import CutJudge
from nas_distill.allocation.polynomial import CostPolynomial
from nas_distill.allocation.search import FINER, LEVELS, AllocationSearch, JudgedCut
from nas_distill.costs.budget import Budget
from nas_distill.engine.candidates import Pricing
from nas_distill.pruning.plan import Cut
from nas_distill.reports import formatting
from nas_distill.runs.folder import RunFolder
from nas_distill.study.cutting import Cutting
from nas_distill.study.observer import Observer
from nas_distill.study.problem import SearchProblem
from nas_distill.teacher import TeacherSignal
from nas_distill.utils.errors import BudgetError


def allocate(
    problem: SearchProblem,
    cutting: Cutting,
    pricing: Pricing,
    signal: TeacherSignal,
    folder: RunFolder,
    observer: Observer,
) -> AllocatedCandidates:
    """Search for the cuts that spend the budget best before training, and return them as candidates.

    What was judged is kept in the run's folder, so that a resumed search proposes the same candidates.

    ``resolve`` has refused budgets without an upper limit.

    Raises:
        BudgetError: no cut is within the budget.
    """
    levels, judged = search_cuts(problem, cutting, pricing, signal, folder, observer, levels_within(pricing.budget))
    count = formatting.count(problem.config.allocation.candidates, "untrained candidate")
    observer.note(
        f"Allocation: {count} judged on {judged:,} training samples; the best diverges from the teacher by "
        f"{levels[0][0].divergence:.3f} nats."
    )
    return AllocatedCandidates(cutting.cuts, levels, count=problem.config.search.trials)


def search_cuts(
    problem: SearchProblem,
    cutting: Cutting,
    pricing: Pricing,
    signal: TeacherSignal,
    folder: RunFolder,
    observer: Observer,
    levels: Sequence[tuple[float, float]],
) -> tuple[list[list[JudgedCut]], int]:
    """Search at each level of the budget; return the survivors, the best first, and the number of judged samples.

    Cuts that the run judged before, under whatever budget, are not judged again.

    Raises:
        BudgetError: no cut is within the budget, or it has no upper limit.
    """
    config, space = problem.config, cutting.cuts
    limits = {name: limit.high for name, limit in pricing.budget.limits.items() if limit.high is not None}
    if not limits:
        raise BudgetError("the budget has no upper limit to spend; give one, such as flops=10%.")

    def count(cut: Cut) -> Mapping[str, float] | None:
        return pricing.known(space.encode(cut))

    costs = CostPolynomial.fit(space, lambda cut: pricing(space.encode(cut)), list(limits), seed=config.seed)
    settings = config.allocation
    judge = CutJudge.make(cutting.inheritance, signal, FINER * settings.samples, seed=config.seed)
    identity = problem.identity
    settings_of_judge = {name: identity[name] for name in ("data", "teacher", "space", "inheritance", "seed")}
    pool = JudgePool(judge, space, folder.allocation, settings_of_judge, workers=config.search.workers)
    search = AllocationSearch(
        Filler(space, costs, limits),
        pool,
        count,
        candidates=settings.candidates,
        samples=settings.samples,
        seed=config.seed,
        levels=levels,
        on_step=observer.step,
    )
    with pool.running():
        found = search.run()
    if not found[0]:
        raise BudgetError("no cut of the teacher is within the budget; give a larger budget, or smaller 'widths'.")
    return found, pool.judged


def levels_within(budget: Budget) -> list[tuple[float, float]]:
    """Return the levels of the search that no lower limit excludes, the first of them with the judgements of others."""
    ranges = [limit for limit in budget.limits.values() if limit.low is not None and limit.high is not None]
    kept = [
        (share, part)
        for share, part in LEVELS
        if all(share * (limit.high or 0.0) >= (limit.low or 0.0) for limit in ranges)
    ]
    (share, _), *others = kept or LEVELS[:1]
    return [(share, 1.0 - sum(other for _, other in others)), *others]
