"""When there is nothing left to look at, or no point in looking on."""

from __future__ import annotations

from collections.abc import Sequence

from nas_distill.common.errors import BudgetError, RunError
from nas_distill.cost.budget import Budget
from nas_distill.engine.ledger import Entry, Ledger
from nas_distill.space import SpaceSize


def nothing_new(ledger: Ledger, size: SpaceSize, budget: Budget, patience: int) -> str | None:
    """Return why no new proposal is worth asking for, None when one is.

    That is when the whole space was looked at, or ``patience`` proposals in a row brought nothing to train.

    Raises:
        BudgetError: it is so, and nothing was ever trained because nothing fits the budget; names the limit that binds
            and the nearest candidate.
    """
    if size.exact and len(ledger.seen) >= size.count:
        reason = f"all {size.count} architectures of the space have been tried"
        if budget.limits:
            fitting = size.count - len({entry.proposal.architecture.hash for entry in ledger.having("over_budget")})
            reason += f", of which {fitting} {'is' if fitting == 1 else 'are'} within the budget"
    elif ledger.run_of("over_budget", "duplicate") >= patience:
        reason = f"nothing new within the budget came up in {patience} proposals"
    else:
        return None
    over = ledger.having("over_budget")
    if over and not ledger.count("complete", "pruned", "running"):
        raise BudgetError(budget.infeasible([entry.costs for entry in over]))
    return reason


def give_up(ledger: Ledger, after: int) -> None:
    """Raise when ``after`` candidates have failed and none has ever come through.

    Raises:
        RunError: it is so; gives the first cause.
    """
    failed = ledger.having("failed")
    if len(failed) >= after and not ledger.count("complete", "pruned"):
        raise RunError(_all_failed(failed))


def require_one(ledger: Ledger, ended: str | None) -> None:
    """Raise when candidates have ended, and none of them by being trained to its end.

    Raises:
        RunError: it is so; gives the first cause, or why the search ended.
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
