"""Latency in a search: the predictor fitted before it, and timings of candidates, networks and the teacher."""

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
    """Return the number of candidates that are timed before the search; 0 where latency is not used."""
    return problem.config.latency.calibrate or (30 if LATENCY in problem.required_costs else 0)


def fit_latency_predictor(
    problem: SearchProblem, on_step: Callable[[int, int], None], candidates: Candidates | None = None
) -> LatencyModel | None:
    """Time candidates from small to large and fit the latency predictor; None where latency is not used.

    In a space with fewer architectures than the fit needs, each is timed more than once. Call it only while nothing
    else runs.

    Raises:
        CostError: a limit or an objective needs latency, but too few candidates could be timed.
    """
    config = problem.config
    required = LATENCY in problem.required_costs
    count = networks_to_time(problem)
    builder, shape = candidates or problem.candidates(), problem.input_shape
    chosen = problem.space.spread(count, numpy_rng(config.seed, "calibrate")) if count else []
    if chosen and len(chosen) < FEWEST <= count:
        chosen = [chosen[index % len(chosen)] for index in range(FEWEST)]

    def prepared() -> Iterator[Prepared | NasDistillError]:
        for architecture in chosen:
            try:
                yield builder.apply(architecture, prepare, shape, config.latency.batch, None, problem.runtime)
            except BuildError as error:  # it fails when it is proposed
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
        if required:
            raise
        return None


def time_candidate(problem: SearchProblem, candidates: Candidates, architecture: Architecture) -> LatencySample:
    """Time an architecture's network with the search file's settings; call it only while nothing else runs.

    Raises:
        BuildError: it cannot be built or exported.
        CostError: it does not run.
    """
    latency, shape = problem.config.latency, problem.input_shape
    exported = candidates.apply(architecture, export_for_timing, (latency.batch, *shape), None, problem.runtime)
    (found,) = time_modules([exported], shape, runtime=problem.runtime, **_settings(latency))
    if isinstance(found, NasDistillError):
        raise found
    return found


def time_network(problem: SearchProblem, module: nn.Module) -> LatencySample:
    """Time a network with the search file's settings; call it only while nothing else runs.

    Raises:
        CostError: it cannot be exported, or does not run.
    """
    return time_module(module, problem.input_shape, runtime=problem.runtime, **_settings(problem.config.latency))


def _settings(latency: LatencyConfig) -> dict[str, Any]:
    return {"batch": latency.batch, "threads": latency.threads, "repeats": latency.repeats}


def time_teacher(problem: SearchProblem) -> LatencySample | None:
    """Time the teacher; None where it cannot be exported, which does not prevent a search."""
    try:
        return time_network(problem, problem.teacher.module)
    except CostError:
        return None


def restore_latency_predictor(stored: Mapping[str, Any] | None) -> LatencyModel | None:
    """Return the predictor stored in a run's journal."""
    return None if stored is None else LatencyModel.from_dict(stored)
