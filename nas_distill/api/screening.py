"""Finalists under a latency limit: predictions let them in, measurements decide whether they stay."""

from __future__ import annotations

from collections.abc import Sequence

from nas_distill.api.costing import LATENCY, time_network
from nas_distill.api.inputs import Inputs
from nas_distill.common.seeds import seeded_torch
from nas_distill.cost.budget import Budget
from nas_distill.engine.finalists import choose_finalists
from nas_distill.run import facts as names
from nas_distill.run.facts import Facts
from nas_distill.run.records import TrialRecord


def screened_finalists(
    inputs: Inputs, facts: Facts, budget: Budget, records: Sequence[TrialRecord]
) -> list[TrialRecord]:
    """Choose finalists; where the budget limits latency, each is timed first, and those over the limit are passed over.

    What a network takes does not depend on its weights, so it is known before the full distillation. Run it while
    nothing else does. If none measures within the limit, the unscreened choice is returned, and the report will say so.
    """
    config = inputs.config
    limits = {name: limit.high for name, limit in budget.limits.items() if limit.high is not None}

    def choose(usable: Sequence[TrialRecord]) -> list[TrialRecord]:
        return choose_finalists(usable, config.search.costs, limits, config.final.count, config.final.slope)

    if LATENCY not in limits:
        return choose(records)
    measured: dict[str, float] = dict(facts.get(names.MEASURED_LATENCY, {}))
    usable = list(records)
    while chosen := choose(usable):
        for record in chosen:
            if record.key not in measured:
                measured[record.key] = _measure(inputs, record)
                facts.set(names.MEASURED_LATENCY, measured)
        slow = {record.key for record in chosen if measured[record.key] > limits[LATENCY]}
        if not slow:
            return chosen
        usable = [record for record in usable if record.key not in slow]
    return choose(records)


def _measure(inputs: Inputs, record: TrialRecord) -> float:
    with seeded_torch(inputs.config.seed, "costing"):
        module = inputs.space.build(
            record.architecture, input_shape=inputs.input_shape, num_classes=inputs.data.num_classes
        )
    return time_network(inputs, module).p50_ms
