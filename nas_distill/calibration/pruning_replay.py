"""Replay of the dominance rule over finished trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nas_distill.engine.early_stopping import Dominance, Report
from nas_distill.runs.pareto import non_dominated


@dataclass(frozen=True)
class ReplayResult:
    """Candidates that the dominance rule would have stopped.

    Attributes:
        count: candidates.
        front: candidates on the front of final quality and costs.
        stopped: candidates that the rule stops.
        front_stopped: members of the front that it stops.
        loss: the largest loss of final quality by stopping a member of the front: its quality less the best quality
            among the remaining candidates that cost no more. 0 where none was stopped, never below 0.
    """

    count: int
    front: int
    stopped: int
    front_stopped: int
    loss: float


def replay_pruning(
    costs: Sequence[Mapping[str, float]],
    rungs: Sequence[ArrayLike],
    final: ArrayLike,
    margin: float,
    names: Sequence[str],
) -> ReplayResult:
    """Apply the dominance rule to candidates at each rung, as if all others had already reported.

    That is the hardest case for a candidate: in a search it is compared only with earlier ones.

    Args:
        costs: costs by name, per candidate [N].
        rungs: qualities [N] per rung.
        final: quality [N] after full distillation; with ``costs`` it defines the front.
        margin: of the rule, in units of quality.
        names: the cost objectives.
    """
    ends = np.asarray(final, dtype=float)
    paid = np.array([[cost[name] for name in names] for cost in costs], dtype=float)
    front = non_dominated(np.column_stack([ends, paid]), [True, *(False for _ in names)])
    rule = Dominance(tuple(names), margin)
    stopped = np.zeros(len(ends), dtype=bool)
    for rung, qualities in enumerate(rungs):
        values = np.asarray(qualities, dtype=float)
        reports = [Report(index, cost, float(value)) for index, (cost, value) in enumerate(zip(costs, values))]
        for index, report in enumerate(reports):
            if np.isfinite(report.quality):
                others = reports[:index] + reports[index + 1 :]
                stopped[index] |= rule.judge(rung, report.quality, report.costs, others).stop
    loss = 0.0
    for index in map(int, np.flatnonzero(front & stopped)):
        left = ends[~stopped & (paid <= paid[index]).all(axis=1) & np.isfinite(ends)]
        # The cheapest is never stopped, but with several costs no remaining candidate may be cheaper in all of them.
        loss = max(loss, float(ends[index] - left.max()) if len(left) else float(ends[index]))
    return ReplayResult(len(ends), int(front.sum()), int(stopped.sum()), int((front & stopped).sum()), loss)
