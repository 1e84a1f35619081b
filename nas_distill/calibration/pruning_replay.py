"""Replay of the stopping rule over finished trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from nas_distill.engine.early_stopping import Dominance, Report
from nas_distill.runs.pareto import non_dominated


@dataclass(frozen=True)
class Hindsight:
    """Of ``count`` candidates, ``front`` of which ended on the front: how many a rule stopped, how many of the front.

    ``loss`` is the most that stopping any of the front cost: its final quality less the best that is left of what
    costs no more (0 where none was stopped; never below 0).
    """

    count: int
    front: int
    stopped: int
    front_stopped: int
    loss: float


def in_hindsight(
    costs: Sequence[Mapping[str, float]],
    rungs: Sequence[ArrayLike],
    final: ArrayLike,
    margin: float,
    names: Sequence[str],
) -> Hindsight:
    """Judge candidates at ``rungs`` (one array [N] of qualities each) by ``margin``, as if all had reported before.

    That is the hardest case for a candidate: in a search it meets only those that came before it. ``costs`` [N] and
    ``final`` quality [N] say who ends on the front; ``names`` are the cost objectives.
    """
    ends = np.asarray(final, dtype=float)
    paid = np.array([[cost[name] for name in names] for cost in costs], dtype=float)
    front = non_dominated(np.column_stack([ends, paid]), [True, *(False for _ in names)])
    rule = Dominance(tuple(names), margin)
    stopped = np.zeros(len(ends), dtype=bool)
    for rung, qualities in enumerate(rungs):
        values = np.asarray(qualities, dtype=float)
        reports = [Report(place, cost, float(value)) for place, (cost, value) in enumerate(zip(costs, values))]
        for place, report in enumerate(reports):
            if np.isfinite(report.quality):
                others = reports[:place] + reports[place + 1 :]
                stopped[place] |= rule.judge(rung, report.quality, report.costs, others).stop
    loss = 0.0
    for place in map(int, np.flatnonzero(front & stopped)):
        left = ends[~stopped & (paid <= paid[place]).all(axis=1) & np.isfinite(ends)]
        # The cheapest is never stopped, but another objective may leave nothing below a candidate.
        loss = max(loss, float(ends[place] - left.max()) if len(left) else float(ends[place]))
    return Hindsight(len(ends), int(front.sum()), int(stopped.sum()), int((front & stopped).sum()), loss)
