"""The costs of a search: which are counted, how latency is predicted, what the teacher pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from nas_distill.api.problem import SearchProblem
from nas_distill.common.errors import BuildError, CostError, NasDistillError
from nas_distill.common.seeds import numpy_rng
from nas_distill.config import SearchFile
from nas_distill.cost.budget import Budget
from nas_distill.cost.count import COUNTED
from nas_distill.cost.latency import FEWEST, LatencyModel, Prepared, prepare
from nas_distill.cost.model import CostModel
from nas_distill.cost.registry import cost_info
from nas_distill.cost.runtime import LatencySample, export_for_timing, time_module, time_modules
from nas_distill.engine.candidates import Candidates
from nas_distill.engine.pricing import Pricing
from nas_distill.space import Architecture

LATENCY = "latency_ms"


def asked_costs(config: SearchFile) -> set[str]:
    """Return the costs that a budget or an objective asks for."""
    scalar = config.search.scalar
    return {*config.budget, *config.search.costs, *([scalar.cost] if scalar else [])}


def check_costs(inputs: SearchProblem) -> None:
    """Raise BudgetError for a cost or an amount that cannot be read, before anything is timed or trained."""
    config = inputs.config
    for name in sorted(asked_costs(config)):
        cost_info(name)
    teacher = _count_teacher(inputs)
    scalar = config.search.scalar
    for name, amount in [*config.budget.items(), *([(scalar.cost, scalar.target)] if scalar else [])]:
        # A share of the teacher's latency is known only when that has been measured.
        if name != LATENCY or "%" not in str(amount):
            Budget.parse({name: amount}, teacher)


def _count_teacher(inputs: SearchProblem) -> dict[str, float]:
    return dict(CostModel(COUNTED, inputs.input_shape).costs(inputs.teacher.module))


def make_costing(
    inputs: SearchProblem,
    latency: LatencyModel | None,
    teacher_latency_ms: float | None,
    candidates: Candidates | None = None,
) -> Pricing:
    """Put together what a search pays.

    Args:
        inputs: teacher, space, data and search file.
        latency: the fitted predictor; None leaves latency out.
        teacher_latency_ms: measured, beside the predictor.
        candidates: builds them; one of its own unless given.

    Raises:
        BudgetError: the budget cannot be read.
        CostError: the teacher's costs are needed and cannot be counted.
    """
    config = inputs.config
    builder = candidates or inputs.candidates()
    names = (*COUNTED, *((LATENCY,) if latency is not None else ()))
    model = CostModel(names, inputs.input_shape, latency)

    def cost_of(architecture: Architecture) -> dict[str, float]:
        return dict(builder.look(architecture, _costs, model))

    teacher = _count_teacher(inputs)
    if teacher_latency_ms is not None:
        teacher[LATENCY] = teacher_latency_ms
    budget = Budget.parse(config.budget, teacher)
    return Pricing(cost_of, budget, names=names, teacher=teacher, latency=latency)


def networks_to_time(config: SearchFile) -> int:
    """Return how many candidates are timed before the search; 0 where latency is left out."""
    return config.latency.calibrate or (30 if LATENCY in asked_costs(config) else 0)


def _costs(module: nn.Module, model: CostModel) -> dict[str, float]:
    return dict(model.costs(module))


def calibrate(
    inputs: SearchProblem, on_step: Callable[[int, int], None], candidates: Candidates | None = None
) -> LatencyModel | None:
    """Time candidates from small to large and fit the latency predictor; None where latency is left out.

    Of a space with fewer architectures than a fit needs, each is timed more than once.

    Run it while nothing else does.

    Raises:
        CostError: latency is asked for, but too few candidates could be timed.
    """
    config = inputs.config
    asked = LATENCY in asked_costs(config)
    count = networks_to_time(config)
    builder, shape = candidates or inputs.candidates(), inputs.input_shape
    chosen = inputs.space.spread(count, numpy_rng(config.seed, "calibrate")) if count else []
    if chosen and len(chosen) < FEWEST <= count:
        chosen = [chosen[place % len(chosen)] for place in range(FEWEST)]

    def prepared() -> Iterator[Prepared | NasDistillError]:
        for architecture in chosen:
            try:
                yield builder.look(architecture, prepare, shape, config.latency.batch)
            except BuildError as error:  # such candidates fail when their turn comes
                yield error

    try:
        return LatencyModel.calibrate(
            prepared(),
            shape,
            batch=config.latency.batch,
            threads=config.latency.threads,
            repeats=config.latency.repeats,
            progress=lambda done: on_step(done, len(chosen)),
        )
    except CostError:
        if asked:
            raise
        return None


def time_candidate(inputs: SearchProblem, candidates: Candidates, architecture: Architecture) -> LatencySample:
    """Time an architecture's network as the search file says; run it while nothing else does.

    Raises:
        BuildError: it cannot be built or exported.
        CostError: it does not run.
    """
    latency, shape = inputs.config.latency, inputs.input_shape
    exported = candidates.look(architecture, export_for_timing, (latency.batch, *shape))
    (found,) = time_modules([exported], shape, batch=latency.batch, threads=latency.threads, repeats=latency.repeats)
    if isinstance(found, NasDistillError):
        raise found
    return found


def time_network(inputs: SearchProblem, module: nn.Module) -> LatencySample:
    """Time a network as the search file says; run it while nothing else does.

    Raises:
        CostError: it cannot be exported, or does not run.
    """
    latency = inputs.config.latency
    return time_module(
        module, inputs.input_shape, batch=latency.batch, threads=latency.threads, repeats=latency.repeats
    )


def time_teacher(inputs: SearchProblem) -> LatencySample | None:
    """Time the teacher; None where it cannot be exported, which is no reason not to search."""
    try:
        return time_network(inputs, inputs.teacher.module)
    except CostError:
        return None


def restore_latency(stored: Mapping[str, Any] | None) -> LatencyModel | None:
    """Return the predictor that a run's journal holds."""
    return None if stored is None else LatencyModel.from_dict(stored)
