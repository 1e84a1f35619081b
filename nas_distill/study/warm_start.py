"""Warm start: the finished trials of earlier runs of a space, read without loading anything that those runs name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nas_distill.engine.candidates import Pricing
from nas_distill.engine.warm_start import best_first
from nas_distill.reports import formatting
from nas_distill.runs.metadata import EarlierRun, Reading, RunMetadata, TakenTrial
from nas_distill.runs.records import TrialRecord
from nas_distill.spaces import Architecture
from nas_distill.study.problem import SearchProblem
from nas_distill.study.stored import StoredRun
from nas_distill.utils.errors import ConfigError, NasDistillError, RunError, first_line

SCORES = ("data", "teacher", "score", "seed", "inheritance")
"""Sections of a run's identity on which the score of an architecture depends, besides the space."""
WHERE = "search.warm_start"


def check_earlier_runs(problem: SearchProblem) -> None:
    """Refuse a warm start from a run of another space; runs that cannot be read are left to the search.

    Raises:
        ConfigError: a run is of another search space.
    """
    for name in problem.config.search.warm_start:
        _open(problem, name)


def read_earlier_runs(
    problem: SearchProblem, pricing: Pricing, records: Iterable[TrialRecord] = ()
) -> tuple[EarlierRun, ...]:
    """Return what the runs that a search file names give to the search, in their order.

    Where scores compare, that is every trial that was trained to its last rung and is within the budget. Where only the
    space is the same, the best of those architectures, at most ``seeds`` of all such runs together, each in turn. An
    architecture is taken once, from the first run that has it, and not if it is among ``records``, the trials of the
    search so far. Costs are counted for this search.

    Raises:
        ConfigError: a run is of another search space.
    """
    seen = {record.architecture.hash for record in records}
    found: list[EarlierRun] = []
    ranked: dict[int, Iterator[Architecture]] = {}
    for name in problem.config.search.warm_start:
        stored = _open(problem, name)
        if isinstance(stored, RunError):
            found.append(EarlierRun(run=name, unread=first_line(stored).rstrip(".")))
            continue
        differs = _differences(problem, stored.metadata)
        finished = list(_finished(problem, stored.records))
        fitting = [record for record in finished if _fits(pricing, record)]
        outside = len(finished) - len(fitting)
        if differs:
            ranked[len(found)] = iter(_ranked(fitting, pricing, problem.objectives.costs))
            found.append(EarlierRun(run=name, differs=differs, outside=outside))
            continue
        rungs = len(problem.config.score.rungs)
        whole = [
            record for record in fitting if len(record.reports) == rungs
        ]  # as all are, unless it was tampered with
        taken = [_taken(record, pricing) for record in whole if not _repeats(record.architecture, seen)]
        found.append(EarlierRun(run=name, trials=tuple(taken), outside=outside))
    for place, chosen in _in_turn(ranked, seen, problem.config.search.seeds).items():
        found[place] = found[place].model_copy(update={"candidates": tuple(chosen)})
    return tuple(found)


def describe_warm_start(earlier: Sequence[EarlierRun] | None) -> list[str]:
    """Return one sentence per earlier run on what a search has taken from it."""
    return [_describe(run) for run in earlier or ()]


def _describe(run: EarlierRun) -> str:
    if run.unread is not None:
        return f"Warm start: nothing was taken from {run.run} ({run.unread})."
    outside = f"; {run.outside} outside the budget" if run.outside else ""
    if run.differs:
        sections = ", ".join(f"'{name}'" for name in run.differs)
        count = formatting.count(len(run.candidates), "architecture")
        return (
            f"Warm start: {count} of {run.run} to train again (another {sections}, so scores do not compare){outside}."
        )
    return (
        f"Warm start: {formatting.count(len(run.trials), 'finished trial')} of {run.run}, not trained again{outside}."
    )


def _open(problem: SearchProblem, name: str) -> StoredRun | RunError:
    """Open a run for reading its journal only; return the error of one that is missing, damaged or untrustworthy.

    Raises:
        ConfigError: it is of another search space.
    """
    places = [base / Path(name).expanduser() for base in problem.paths or (Path.cwd(),)]
    try:
        stored = StoredRun(next((place for place in places if place.is_dir()), places[0]))
        if not stored.metadata.identity:
            return RunError("it has recorded nothing yet")
        if stored.metadata.identity.get("space") == problem.identity["space"]:
            for record in stored.records:
                problem.space.validate(record.architecture)
            return stored
    except (NasDistillError, OSError) as error:
        return RunError(first_line(error))
    raise ConfigError(
        f"{WHERE}: {name} is a run of another search space, so its architectures mean nothing in this one; remove it "
        "from the list, or search its space."
    )


def _differences(problem: SearchProblem, earlier: RunMetadata) -> tuple[str, ...]:
    """Return the sections that scores depend on and that differ."""
    ours, theirs = problem.identity, earlier.identity
    found = [name for name in SCORES if ours.get(name) != theirs.get(name)]
    if earlier.task != problem.data.task:
        found.append("task")
    # Students of distilled blocks begin with weights of their own run's library.
    if earlier.blocks is not None or problem.config.search.strategy != "sample":
        found.append("strategy")
    return tuple(found)


def _finished(problem: SearchProblem, records: Iterable[TrialRecord]) -> Iterator[TrialRecord]:
    """Yield the trials that were trained to their last rung, each architecture once."""
    seen: set[str] = set()
    for record in records:
        if record.state != "complete" or list(record.reports) != list(range(len(record.reports))):
            continue
        figures = [figure for report in record.reports.values() for figure in (report.quality, report.seconds)]
        if figures and all(map(math.isfinite, figures)) and not _repeats(record.architecture, seen):
            yield record


def _fits(pricing: Pricing, record: TrialRecord) -> bool:
    costs = pricing.known(record.architecture)
    return costs is not None and pricing.budget.fits(costs)


def _taken(record: TrialRecord, pricing: Pricing) -> TakenTrial:
    return TakenTrial(
        trial=record.number,
        architecture=record.architecture.to_dict(),
        costs=pricing(record.architecture),
        readings=tuple(
            Reading(quality=report.quality, step=report.step, seconds=report.seconds, share=report.share)
            for report in record.reports.values()
        ),
    )


def _ranked(records: Sequence[TrialRecord], pricing: Pricing, costs: Sequence[str]) -> list[Architecture]:
    priced = [pricing(record.architecture) for record in records]
    points = [[record.final_quality, *(found[name] for name in costs)] for record, found in zip(records, priced)]
    return [records[index].architecture for index in best_first(points)]


def _in_turn(ranked: dict[int, Iterator[Architecture]], seen: set[str], count: int) -> dict[int, list[dict[str, Any]]]:
    """Take the next best architecture of each run in turn, none twice, ``count`` in all."""
    chosen: dict[int, list[dict[str, Any]]] = {place: [] for place in ranked}
    left, waiting = count, dict(ranked)
    while left > 0 and waiting:
        for place in list(waiting):
            found = next((one for one in waiting[place] if not _repeats(one, seen)), None)
            if found is None:
                del waiting[place]
            elif left > 0:
                chosen[place].append(found.to_dict())
                left -= 1
    return chosen


def _repeats(architecture: Architecture, seen: set[str]) -> bool:
    """Return whether an architecture is in ``seen``, to which it is added."""
    if architecture.hash in seen:
        return True
    seen.add(architecture.hash)
    return False
