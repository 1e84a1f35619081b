"""Finalists under a latency limit: predictions let them in, measurements decide whether they stay."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from nas_distill.api.costing import LATENCY, time_candidate
from nas_distill.api.problem import SearchProblem
from nas_distill.common.errors import BuildError, CostError
from nas_distill.cost.budget import Budget
from nas_distill.engine.candidates import Candidates
from nas_distill.engine.finalists import choose_finalists
from nas_distill.run import facts as names
from nas_distill.run.facts import Facts
from nas_distill.run.records import TrialRecord


def screened_finalists(
    inputs: SearchProblem, facts: Facts, budget: Budget, records: Sequence[TrialRecord]
) -> list[TrialRecord]:
    """Choose finalists; where the budget limits latency, each is timed first, and those over the limit are passed over.

    What a network takes does not depend on its weights, so it is known before the full distillation. Run it while
    nothing else does. One that cannot be timed is passed over too. If none measures within the limit, the unscreened
    choice is returned, and the report will say so.
    """
    config = inputs.config
    limits = {name: limit.high for name, limit in budget.limits.items() if limit.high is not None}

    def choose(usable: Sequence[TrialRecord]) -> list[TrialRecord]:
        return choose_finalists(usable, config.search.costs, limits, config.final.count, config.final.slope)

    if LATENCY not in limits:
        return choose(records)
    measured: dict[str, float] = dict(facts.get(names.MEASURED_LATENCY, {}))
    usable = list(records)
    with ExitStack() as stack:
        candidates: Candidates | None = None
        while chosen := choose(usable):
            passed_over: set[str] = set()
            for record in chosen:
                if record.key not in measured:
                    candidates = candidates or stack.enter_context(inputs.candidates())
                    try:
                        measured[record.key] = _measure(inputs, record, candidates)
                    except (BuildError, CostError):
                        passed_over.add(record.key)
                        continue
                    facts.set(names.MEASURED_LATENCY, measured)
            passed_over |= {record.key for record in chosen if measured.get(record.key, 0.0) > limits[LATENCY]}
            if not passed_over:
                return chosen
            usable = [record for record in usable if record.key not in passed_over]
    return choose(records)


def _measure(inputs: SearchProblem, record: TrialRecord, candidates: Candidates) -> float:
    return time_candidate(inputs, candidates, record.architecture).p50_ms
