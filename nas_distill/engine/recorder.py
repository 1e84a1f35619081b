"""Trial recorder: writes each decision to the journal first, and rebuilds state from it after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_distill.costs.budget import Budget
from nas_distill.engine.ledger import Entry, Ledger, Status, chains, entry_of
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.proposals import Proposals, proposal_of
from nas_distill.runs.journal import Journal
from nas_distill.runs.records import RUNG, Rung, Stop, from_trial, read_records, training_key
from nas_distill.utils.files import mentions_full_disk

_STATES: dict[Status, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "over_budget": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
WORST = 1e9  # represents an infinite violation: a limit of 0 has no relative excess


def final_state(entry: Entry) -> TrialState | None:
    """Return the Optuna state of an entry that has ended, None for others."""
    return _STATES.get(entry.status)


def final_values(entry: Entry, objectives: Objectives) -> list[float] | None:
    """Return the objective values of a completed entry, None for others."""
    if entry.status != "complete" or entry.quality is None:
        return None
    return objectives.values(entry.quality, entry.costs)


def constraints(entry: Entry, budget: Budget) -> dict[str, float]:
    """Return, for each limit, the relative excess (0 where it is met); nothing for candidates without costs."""
    if not entry.costs:
        return {}
    return {name: min(entry.violations.get(name, 0.0), WORST) for name in budget.names}


def tell_sampler(proposals: Proposals, ledger: Ledger, entry: Entry, objectives: Objectives, budget: Budget) -> None:
    """Report the outcome of an entry that has ended to the sampler, with the duplicates that waited for it.

    A duplicate gets the outcome of its original: without one, a sampler proposes the same again and again.
    """
    source = entry if entry.original is None else ledger[entry.original]
    state = final_state(source)
    if state is None:
        return
    open_duplicates = [duplicate for duplicate in ledger.take_duplicates(entry) if proposals.is_open(duplicate.index)]
    for ended in [entry, *open_duplicates]:
        values = _outcome_values(source, objectives)
        limits = constraints(source, budget)
        proposals.tell(ended.index, state, values, constraints=limits, repeats=ended is not source)


def _outcome_values(entry: Entry, objectives: Objectives) -> Sequence[float] | None:
    if entry.status == "over_budget":
        # Violations rank such candidates; the costs only keep apart those of equal violation.
        return objectives.values(0.0, entry.costs)
    if entry.status not in ("complete", "pruned") or entry.quality is None:
        return None
    return objectives.values(entry.quality, entry.costs)


class TrialRecorder:
    """The only writer of trials. Every method leaves the journal in a state from which a run can be resumed."""

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
        scores = {rung: report.quality for rung, report in entry.reports.items()}  # of a trial of an earlier run
        self._proposals.note(entry.index, costs=entry.costs, scores=scores)
        self._tell(entry)

    def begin_again(self, entry: Entry) -> None:
        """Append a trial that continues an interrupted entry, with its key, its costs and its reports."""
        number = self._add(entry, self._attributes(entry) | {"retry_of": entry.number})
        self._ledger.renumber(entry, number)
        self._tell(entry)

    def report(self, entry: Entry, rung: int, report: Rung, stop: Stop | None) -> None:
        """Write a report and the decision on it, in one line."""
        self._journal.annotate(entry.number, f"{RUNG}{rung}", _rung_attribute(report, stop))
        self._ledger.report(entry, rung, report)
        self._proposals.note(entry.index, scores={rung: report.quality})
        entry.stop = stop

    def fault(self, entry: Entry, cause: str) -> None:
        """Write why an entry fails, before it ends."""
        self._journal.annotate(entry.number, "cause", cause)
        entry.cause = cause

    def interrupt(self, entry: Entry) -> None:
        """End the entry's trial; another trial will continue it."""
        self._journal.annotate(entry.number, "interrupted", "stopped")
        self._journal.tell(entry.number, TrialState.FAIL)
        self._ledger.change(entry, "waiting")

    def end(self, entry: Entry) -> None:
        """End an entry as failed, stopped or complete, according to its record."""
        ended: Status = "failed" if entry.cause is not None else "pruned" if entry.stop is not None else "complete"
        self._ledger.change(entry, ended)
        state = final_state(entry)
        assert state is not None
        self._journal.tell(entry.number, state, final_values(entry, self._objectives))
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        tell_sampler(self._proposals, self._ledger, entry, self._objectives, self._budget)

    def _add(self, entry: Entry, attributes: dict[str, Any]) -> int:
        source = entry if entry.original is None else self._ledger[entry.original]
        state = final_state(source)
        if state is None:
            # A duplicate of an entry in flight has no outcome yet; the sampler gets it later.
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
        if entry.taken is not None:
            found["taken"] = {"run": entry.taken.run, "trial": entry.taken.trial}
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
            "dominated_by": stop.dominated_by,
            "dominating_quality": stop.dominating_quality,
            "margin": stop.margin,
            "reason": stop.reason,
        }
    return attribute


def end_in_flight(journal: Journal, objectives: Objectives, last_rung: int) -> None:
    """End every unfinished trial of a process that died.

    A trial whose end was decided but not yet written gets that end; any other was interrupted, and fails as such. A
    trial left running would count as bad with the sampler for the rest of the search.
    """
    for trial in journal.study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            _end(journal, trial, objectives, last_rung)


def rebuild(journal: Journal, proposals: Proposals, objectives: Objectives, budget: Budget) -> Ledger:
    """Read the journal into a ledger, and give the sampler its proposals and outcomes back."""
    records = read_records(journal.study)
    trials = {trial.number: trial for trial in journal.study.get_trials(deepcopy=False)}
    index_of = {record.number: record.index for record in records}
    ledger = Ledger(objectives.costs)
    none_trained = not any(record.trained and record.state != "failed" for record in records)
    for chain in chains(records):
        first = chain[0]
        proposal = proposal_of(trials[first.number], first.architecture, first.origin)
        duplicate = chain[-1].duplicate_of
        entry = entry_of(chain, proposal, None if duplicate is None else index_of[duplicate])
        if entry.status == "failed" and _blameless(entry.cause or "", none_trained):
            entry.status, entry.cause = "waiting", None
        proposals.restore(proposal)
        scores = {rung: report.quality for rung, report in entry.reports.items()}
        proposals.note(entry.index, costs=entry.costs, scores=scores)
        ledger.append(entry)
    for entry in ledger:
        if proposals.is_open(entry.index):
            tell_sampler(proposals, ledger, entry, objectives, budget)
    return ledger


def _blameless(cause: str, none_trained: bool) -> bool:
    """Return whether a candidate failed because a disk was full, and so is to be trained again.

    Where no candidate was ever trained, the death of any worker is attributed to the state of the machine.
    """
    died = cause.startswith(("worker died", "worker failed", "worker did not start", "Ray Tune"))
    return mentions_full_disk(cause) or (none_trained and died)


def _end(journal: Journal, trial: FrozenTrial, objectives: Objectives, last_rung: int) -> None:
    record = from_trial(trial)
    if record.cause is not None:
        journal.tell(trial.number, TrialState.FAIL)
    elif record.stop is not None:
        journal.tell(trial.number, TrialState.PRUNED)
    elif last_rung in record.reports:
        quality = record.reports[last_rung].quality
        journal.tell(trial.number, TrialState.COMPLETE, objectives.values(quality, record.costs))
    else:
        if record.interrupted is None:
            journal.annotate(trial.number, "interrupted", "died")
        journal.tell(trial.number, TrialState.FAIL)
