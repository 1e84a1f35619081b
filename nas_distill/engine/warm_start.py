"""Warm start of a search: what its journal notes of earlier runs, as entries and first candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nas_distill.engine.ledger import Entry
from nas_distill.engine.proposals import Proposals
from nas_distill.runs.metadata import EarlierRun
from nas_distill.runs.pareto import non_dominated
from nas_distill.runs.records import Rung, Taken
from nas_distill.spaces import Architecture

EARLIER = "earlier_run"
"""Origin of proposals that are trials of earlier runs."""


def taken_entries(earlier: Sequence[EarlierRun] | None, proposals: Proposals, *, after: int) -> Iterator[Entry]:
    """Insert the noted trials of earlier runs as proposals, and yield a complete entry of each, without its index.

    The first ``after`` are left out: a session that ended in the middle has recorded them.
    """
    noted = [(run.run, trial) for run in earlier or () for trial in run.trials]
    for name, trial in noted[after:]:
        proposal = proposals.insert(Architecture(trial.architecture), EARLIER)
        reports = {rung: Rung(**reading.model_dump()) for rung, reading in enumerate(trial.readings)}
        taken = Taken(name, trial.trial)
        yield Entry(-1, proposal, "complete", costs=dict(trial.costs), reports=reports, taken=taken)


def candidates_of(earlier: Sequence[EarlierRun] | None, among: Sequence[Architecture]) -> list[Architecture]:
    """Return the architectures of earlier runs that are first candidates, without those in ``among``."""
    noted = [Architecture(values) for run in earlier or () for values in run.candidates]
    return [architecture for architecture in noted if architecture not in among]


def best_first(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of ``points`` [N, 1 + C] (quality, costs), the best first.

    Those that no other dominates (higher quality, lower costs) come first, then those that only they dominate, and so
    on (non-dominated sorting, Deb et al. 2002); within each of these layers, higher quality comes first.
    """
    left = list(range(len(points)))
    order: list[int] = []
    while left:
        mask = non_dominated([points[index] for index in left], [True] + [False] * (len(points[0]) - 1))
        layer = [index for index, kept in zip(left, mask) if kept] or left  # rows with a NaN are on no front
        order += sorted(layer, key=lambda index: (-points[index][0], index))
        left = [index for index in left if index not in set(layer)]
    return order
