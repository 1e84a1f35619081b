"""How outcomes are told: to the journal as an Optuna trial's state, and to the sampler."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import TrialState

from nas_distill.cost.budget import Budget
from nas_distill.engine.ledger import Entry, Ledger, Status
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.proposals import Proposals

_STATES: dict[Status, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "over_budget": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
WORST = 1e9  # stands for an infinite violation: a limit of 0 has no relative excess


def final_state(entry: Entry) -> TrialState | None:
    """Return the Optuna state of an entry that has ended, None for others."""
    return _STATES.get(entry.status)


def final_values(entry: Entry, objectives: Objectives) -> list[float] | None:
    """Return the told values of a completed entry, None for others."""
    if entry.status != "complete" or entry.quality is None:
        return None
    return objectives.values(entry.quality, entry.costs)


def constraints(entry: Entry, budget: Budget) -> dict[str, float]:
    """Return, for each limit, the relative excess (0 where it is met); nothing for candidates without costs."""
    if not entry.costs:
        return {}
    return {name: min(entry.violations.get(name, 0.0), WORST) for name in budget.names}


def tell_sampler(proposals: Proposals, ledger: Ledger, entry: Entry, objectives: Objectives, budget: Budget) -> None:
    """Settle an entry with the sampler as far as it has ended, and the duplicates that waited for it.

    A duplicate is told what its original was told: ignored, a sampler proposes the same again and again.
    """
    source = entry if entry.original is None else ledger[entry.original]
    state = final_state(source)
    if state is None:
        return
    open_twins = [twin for twin in ledger.take_twins(entry) if proposals.is_open(twin.index)]
    for told in [entry, *open_twins]:
        values = _told_values(source, objectives)
        limits = constraints(source, budget)
        proposals.settle(told.index, state, values, constraints=limits, repeats=told is not source)


def _told_values(entry: Entry, objectives: Objectives) -> Sequence[float] | None:
    if entry.status == "over_budget":
        # Violations rank such candidates; the costs only keep apart those of equal violation.
        return objectives.values(0.0, entry.costs)
    if entry.status not in ("complete", "pruned") or entry.quality is None:
        return None
    return objectives.values(entry.quality, entry.costs)
