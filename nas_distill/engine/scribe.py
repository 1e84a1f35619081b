"""Writes what the Controller decides: each step to the journal first, then to the ledger, then to the sampler."""

from __future__ import annotations

from typing import Any

from optuna.trial import TrialState, create_trial

from nas_distill.cost.budget import Budget
from nas_distill.engine.ledger import Entry, Ledger, Status
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.proposals import Proposals
from nas_distill.engine.telling import constraints, final_state, final_values, tell_sampler
from nas_distill.run.journal import Journal
from nas_distill.run.records import RUNG, Rung, Stop, training_key


class Scribe:
    """The one writer of trials. Every method leaves the journal such that a resumed run understands it."""

    def __init__(
        self, journal: Journal, proposals: Proposals, ledger: Ledger, objectives: Objectives, budget: Budget
    ) -> None:
        self._journal = journal
        self._proposals = proposals
        self._ledger = ledger
        self._objectives = objectives
        self._budget = budget

    def begin(self, entry: Entry) -> None:
        """Append a new entry with its trial, whole and in one line, in the state that it has from the start."""
        entry.number = self._journal.next_number
        entry.key = training_key(entry.number)
        entry.number = self._add(entry, self._attributes(entry))
        self._ledger.append(entry)
        self._settle(entry)

    def begin_again(self, entry: Entry) -> None:
        """Append a trial that goes on with an interrupted entry: its key, its costs and what it has reported."""
        number = self._add(entry, self._attributes(entry) | {"retry_of": entry.number})
        self._ledger.renumber(entry, number)
        self._settle(entry)

    def report(self, entry: Entry, rung: int, report: Rung, stop: Stop | None) -> None:
        """Write a report and what was decided on it, in one line."""
        self._journal.annotate(entry.number, f"{RUNG}{rung}", _rung_attribute(report, stop))
        self._ledger.report(entry, rung, report)
        entry.stop = stop

    def fault(self, entry: Entry, cause: str) -> None:
        """Write why an entry fails, before it ends."""
        self._journal.annotate(entry.number, "cause", cause)
        entry.cause = cause

    def interrupt(self, entry: Entry) -> None:
        """End the entry's trial; another will go on with it."""
        self._journal.annotate(entry.number, "interrupted", "stopped")
        self._journal.tell(entry.number, TrialState.FAIL)
        self._ledger.change(entry, "waiting")

    def end(self, entry: Entry) -> None:
        """End an entry as what was written of it says: failed, stopped or complete."""
        ended: Status = "failed" if entry.cause is not None else "pruned" if entry.stop is not None else "complete"
        self._ledger.change(entry, ended)
        state = final_state(entry)
        assert state is not None
        self._journal.tell(entry.number, state, final_values(entry, self._objectives))
        self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        tell_sampler(self._proposals, self._ledger, entry, self._objectives, self._budget)

    def _add(self, entry: Entry, attributes: dict[str, Any]) -> int:
        source = entry if entry.original is None else self._ledger[entry.original]
        state = final_state(source)
        if state is None:
            # A duplicate of what is still in flight has nothing to be told yet; the sampler gets it later.
            state = TrialState.RUNNING if entry.original is None else TrialState.FAIL
        return self._journal.add(
            create_trial(
                state=state,
                values=final_values(source, self._objectives),
                params=entry.proposal.params,
                distributions=entry.proposal.distributions,
                user_attrs=attributes,
                system_attrs=entry.proposal.state,
                constraints=constraints(source, self._budget),
            )
        )

    def _attributes(self, entry: Entry) -> dict[str, Any]:
        found: dict[str, Any] = {
            "index": entry.index,
            "key": entry.key,
            "architecture": entry.proposal.architecture.to_dict(),
            "origin": entry.proposal.origin,
            "costs": entry.costs,
        }
        if entry.violations:
            found["violations"] = entry.violations
        if entry.cause is not None:
            found["cause"] = entry.cause
        if entry.original is not None:
            found["duplicate_of"] = self._ledger[entry.original].number
        return found | {f"{RUNG}{rung}": _rung_attribute(report, None) for rung, report in entry.reports.items()}


def _rung_attribute(report: Rung, stop: Stop | None) -> dict[str, Any]:
    attribute: dict[str, Any] = {
        "quality": report.quality,
        "step": report.step,
        "seconds": report.seconds,
        "share": report.share,
    }
    if stop is not None:
        attribute["stop"] = {
            "witness": stop.witness,
            "witness_quality": stop.witness_quality,
            "margin": stop.margin,
            "reason": stop.reason,
        }
    return attribute
