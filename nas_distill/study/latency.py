"""Latency in a search: the predictor that is fitted before it, and timings of candidates, networks and the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from nas_distill.config import LatencyConfig
from nas_distill.costs.latency import FEWEST, LATENCY, LatencyModel, Prepared, prepare
from nas_distill.costs.timing import LatencySample, export_for_timing, time_module, time_modules
from nas_distill.engine.candidates import Candidates
from nas_distill.spaces import Architecture
from nas_distill.study.problem import SearchProblem
from nas_distill.utils.errors import BuildError, CostError, NasDistillError
from nas_distill.utils.seeds import numpy_rng


def networks_to_time(problem: SearchProblem) -> int:
    """Return how many candidates are timed before the search; 0 where latency is left out."""
    return problem.config.latency.calibrate or (30 if LATENCY in problem.asked_costs else 0)


def calibrate(
    problem: SearchProblem, on_step: Callable[[int, int], None], candidates: Candidates | None = None
) -> LatencyModel | None:
    """Time candidates from small to large and fit the latency predictor; None where latency is left out.

    Of a space with fewer architectures than a fit needs, each is timed more than once.

    Run it while nothing else does.

    Raises:
        CostError: latency is asked for, but too few candidates could be timed.
    """
    config = problem.config
    asked = LATENCY in problem.asked_costs
    count = networks_to_time(problem)
    builder, shape = candidates or problem.candidates(), problem.input_shape
    chosen = problem.space.spread(count, numpy_rng(config.seed, "calibrate")) if count else []
    if chosen and len(chosen) < FEWEST <= count:
        chosen = [chosen[place % len(chosen)] for place in range(FEWEST)]

    def prepared() -> Iterator[Prepared | NasDistillError]:
        for architecture in chosen:
            try:
                yield builder.look(architecture, prepare, shape, config.latency.batch, None, problem.runtime)
            except BuildError as error:  # such candidates fail when their turn comes
                yield error

    try:
        return LatencyModel.calibrate(
            prepared(),
            shape,
            runtime=problem.runtime,
            progress=lambda done: on_step(done, len(chosen)),
            **_settings(config.latency),
        )
    except CostError:
        if asked:
            raise
        return None


def time_candidate(problem: SearchProblem, candidates: Candidates, architecture: Architecture) -> LatencySample:
    """Time an architecture's network as the search file says; run it while nothing else does.

    Raises:
        BuildError: it cannot be built or exported.
        CostError: it does not run.
    """
    latency, shape = problem.config.latency, problem.input_shape
    exported = candidates.look(architecture, export_for_timing, (latency.batch, *shape), None, problem.runtime)
    (found,) = time_modules([exported], shape, runtime=problem.runtime, **_settings(latency))
    if isinstance(found, NasDistillError):
        raise found
    return found


def time_network(problem: SearchProblem, module: nn.Module) -> LatencySample:
    """Time a network as the search file says; run it while nothing else does.

    Raises:
        CostError: it cannot be exported, or does not run.
    """
    return time_module(module, problem.input_shape, runtime=problem.runtime, **_settings(problem.config.latency))


def _settings(latency: LatencyConfig) -> dict[str, Any]:
    return {"batch": latency.batch, "threads": latency.threads, "repeats": latency.repeats}


def time_teacher(problem: SearchProblem) -> LatencySample | None:
    """Time the teacher; None where it cannot be exported, which is no reason not to search."""
    try:
        return time_network(problem, problem.teacher.module)
    except CostError:
        return None


def restore_latency(stored: Mapping[str, Any] | None) -> LatencyModel | None:
    """Return the predictor that a run's journal holds."""
    return None if stored is None else LatencyModel.from_dict(stored)
