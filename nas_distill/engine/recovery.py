"""Opening a journal that a search left behind: nothing stays in flight, nothing is lost, nothing counts twice."""

from __future__ import annotations

from optuna.trial import FrozenTrial, TrialState

from nas_distill.common.disk import names_full_disk
from nas_distill.cost.budget import Budget
from nas_distill.engine.ledger import Ledger, chains, entry_of
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.proposals import Proposals, proposal_of
from nas_distill.engine.telling import tell_sampler
from nas_distill.run.journal import Journal
from nas_distill.run.records import from_trial, read_records


def end_in_flight(journal: Journal, objectives: Objectives, last_rung: int) -> None:
    """Give every unfinished trial of a dead process its end.

    One whose end was decided but not yet told gets that end; any other was interrupted, and fails as such. A trial left
    running would count as bad with the sampler for ever.
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
    none_came_through = not any(record.state in ("complete", "pruned") for record in records)
    for chain in chains(records):
        first = chain[0]
        proposal = proposal_of(trials[first.number], first.architecture, first.origin)
        twin = chain[-1].duplicate_of
        entry = entry_of(chain, proposal, None if twin is None else index_of[twin])
        if entry.status == "failed" and _blameless(entry.cause or "", none_came_through):
            entry.status, entry.cause = "waiting", None
        proposals.restore(proposal)
        ledger.append(entry)
    for entry in ledger:
        if proposals.is_open(entry.index):
            tell_sampler(proposals, ledger, entry, objectives, budget)
    return ledger


def _blameless(cause: str, none_came_through: bool) -> bool:
    """Say whether a candidate failed for want of room on a disk, and so is to be trained again.

    Where no candidate ever came through, every worker that died is taken to have died of the machine's state.
    """
    died = cause.startswith(("worker died", "worker failed", "worker did not start", "Ray Tune"))
    return names_full_disk(cause) or (none_came_through and died)


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
