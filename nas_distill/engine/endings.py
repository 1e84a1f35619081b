"""Conditions under which a search has nothing left to train, or gives up."""

from __future__ import annotations

from collections.abc import Sequence

from nas_distill.costs.budget import Budget
from nas_distill.engine.feasible import FeasibleSet
from nas_distill.engine.ledger import Entry, Ledger
from nas_distill.spaces import SpaceSize
from nas_distill.utils.errors import BudgetError, RunError


def nothing_new(ledger: Ledger, size: SpaceSize, budget: Budget, patience: int, feasible: FeasibleSet) -> str | None:
    """Return why no new proposal is worth asking for, None when one is.

    That is when the whole space was looked at, when all of its feasible architectures were, or when ``patience``
    proposals in a row brought nothing to train.

    Raises:
        BudgetError: it is so, and nothing was ever trained because nothing fits the budget; names the limit that binds
            and the nearest candidate.
    """
    over: list[dict[str, float]] | None = None  # listing them takes time in proportion to the search
    if feasible.found and feasible.exhausted(ledger.seen):
        reason = _all_feasible(feasible.fitting, size)
        over = feasible.over
    elif size.exact and len(ledger.seen) >= size.count:
        reason = f"all {size.count} architectures of the space have been tried"
        if budget.limits:
            uncounted = [entry for entry in ledger.having("failed") if not entry.costs]
            reason = _all_feasible(size.count - ledger.count("over_budget") - len(uncounted), size)
    elif ledger.run_of("over_budget", "duplicate") >= patience:
        reason = f"nothing new within the budget came up in {patience} proposals"
    else:
        return None
    if not ledger.count("complete", "pruned", "running"):
        over = [entry.costs for entry in ledger.having("over_budget")] if over is None else over
        if over:
            raise BudgetError(budget.infeasible(over))
    return reason


def _all_feasible(count: int, size: SpaceSize) -> str:
    return f"every architecture within the budget has been tried: {count} of the {size.count} of the space"


def give_up(ledger: Ledger, after: int) -> None:
    """Raise when ``after`` candidates have failed and none has ever come through.

    Raises:
        RunError: too many failed; gives the first cause.
    """
    if ledger.count("failed") >= after and ledger.count("complete", "pruned") == ledger.taken:
        raise RunError(_all_failed(ledger.having("failed")))


def require_one(ledger: Ledger, ended: str | None) -> None:
    """Raise an error if candidates have ended, but none was trained to its end.

    Raises:
        RunError: none was; gives the first cause, or why the search ended.
    """
    if ledger.count("complete", "waiting", "running"):
        return
    failed = ledger.having("failed")
    if failed:
        raise RunError(_all_failed(failed))
    raise RunError(f"no candidate was trained to its end: {ended or 'none was handed out'}.")


def _all_failed(failed: Sequence[Entry]) -> str:
    first = failed[0]
    return (
        f"all of the first {len(failed)} candidates failed; the first, trial {first.number}, with: "
        f"{(first.cause or 'no cause').rstrip('.')}."
    )
