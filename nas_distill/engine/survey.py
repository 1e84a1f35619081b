"""A look at the space before the search: what candidates cost, what share of them fits, how long it will take."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from nas_distill.common.device import resolve_device
from nas_distill.common.errors import BudgetError, RunError, first_line
from nas_distill.common.seeds import numpy_rng, seeded_torch
from nas_distill.config import SearchConfig, SearchFile, TrainingConfig
from nas_distill.cost.budget import Budget
from nas_distill.data import Dataset
from nas_distill.distill import Distiller
from nas_distill.engine.apart import compute_apart
from nas_distill.engine.evaluator import InitialWeights, build_student
from nas_distill.evaluate.predict import predict_logits
from nas_distill.space import Architecture, SearchSpace
from nas_distill.teacher import TeacherSignal

_SAMPLES = 150
_FEWEST, _SECONDS = 24, 15.0
"""Candidates that are looked at however long it takes, and the seconds after which no more are."""
_TIMED_STEPS = 8
_TIMED_ENOUGH = 3.0
"""Seconds of training steps after which no more are timed."""
_TIMED_CANDIDATES = 3
_TIMED_SECONDS = 20.0
_STARTUP_SECONDS = 8.0
"""What worker processes take to start, on a machine of two cores."""


@dataclass(frozen=True)
class Candidate:
    """An architecture and its costs."""

    architecture: Architecture
    costs: dict[str, float]


@dataclass(frozen=True)
class Survey:
    """Random candidates of a space, cheapest first (by the first cost objective).

    ``failures`` are first lines of what builders raised. ``share`` is the share of candidates within all limits,
    ``shares`` within each.
    """

    candidates: tuple[Candidate, ...]
    fitting: tuple[Candidate, ...]
    failures: tuple[str, ...]
    share: float
    shares: dict[str, float]

    @property
    def cheapest(self) -> Candidate:
        """The cheapest candidate."""
        return self.candidates[0]

    @property
    def median(self) -> Candidate:
        """The candidate in the middle."""
        return self.candidates[len(self.candidates) // 2]

    @property
    def dearest(self) -> Candidate:
        """The dearest candidate."""
        return self.candidates[-1]

    @property
    def typical(self) -> Candidate:
        """The middle one of those within the budget: what a trial of the search is like."""
        return self.fitting[len(self.fitting) // 2]


def survey_space(
    space: SearchSpace,
    costs: Callable[[Architecture], Mapping[str, float]],
    budget: Budget,
    *,
    by: str,
    seed: int,
    samples: int = _SAMPLES,
    on_step: Callable[[int, int], None] | None = None,
) -> Survey:
    """Look at the space's smallest and largest architectures and ``samples`` random ones, fewer if that takes long.

    ``on_step`` is told how many were looked at, of how many.

    Raises:
        BudgetError: none of them fits; names the limit that binds and the cheapest candidate found.
        RunError: none of them can be built; gives the first cause.
    """
    rng = numpy_rng(seed, "survey")
    wanted = dict.fromkeys([space.smallest(), space.largest(), *(space.sample(rng) for _ in range(samples))])
    found: list[Candidate] = []
    failures: list[str] = []
    began = time.monotonic()
    for place, architecture in enumerate(wanted):
        if place >= _FEWEST and time.monotonic() - began > _SECONDS:
            break
        if on_step is not None:
            on_step(place, len(wanted))
        try:
            found.append(Candidate(architecture, dict(costs(architecture))))
        except Exception as error:  # the builder is the user's code
            failures.append(first_line(error))
    if not found:
        raise RunError(
            f"none of {len(failures)} architectures of space '{space.name}' could be built; the first failed with: "
            f"{failures[0].rstrip('.')}."
        )
    found.sort(key=lambda candidate: candidate.costs[by])
    fitting = [candidate for candidate in found if budget.fits(candidate.costs)]
    if not fitting:
        raise BudgetError(budget.infeasible([candidate.costs for candidate in found]))
    shares = {
        name: float(np.mean([limit.excess(candidate.costs[name]) == 0 for candidate in found]))
        for name, limit in budget.limits.items()
    }
    return Survey(tuple(found), tuple(fitting), tuple(failures), len(fitting) / len(found), shares)


def typical_seconds(
    survey: Survey,
    space: SearchSpace,
    data: Dataset,
    signal: TeacherSignal | None,
    training: TrainingConfig,
    device: str,
) -> float | None:
    """Return the seconds of one training step of a typical candidate; None where a few of them do not tell.

    On the CPU they are trained in a copy of this process: a candidate that crashes it is a failed trial when its turn
    comes, on a worker, and must not end the search here.
    """
    # With its first optimiser torch imports a good deal, which a copy would do for itself alone.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    middle = len(survey.fitting) // 2
    nearest = sorted(range(len(survey.fitting)), key=lambda place: abs(place - middle))
    for place in nearest[:_TIMED_CANDIDATES]:
        architecture = survey.fitting[place].architecture

        def measure(architecture: Architecture = architecture) -> float:
            torch.set_num_threads(1)
            return seconds_per_step(architecture, space, data, signal, training, device)

        try:
            if resolve_device(device).type == "cpu":
                return compute_apart(measure, seconds=_TIMED_SECONDS)
            return seconds_per_step(architecture, space, data, signal, training, device)
        except TimeoutError:  # the others are no smaller
            return None
        except Exception:  # the builder is the user's code
            continue
    return None


def seconds_per_step(
    architecture: Architecture,
    space: SearchSpace,
    data: Dataset,
    signal: TeacherSignal | None,
    training: TrainingConfig,
    device: str,
) -> float:
    """Return the seconds that one training step of an architecture takes, measured on a few steps.

    Raises:
        NasDistillError: it cannot be built or trained.
    """
    with seeded_torch(0, "timing"):
        model = space.build(architecture, input_shape=data.input_shape, num_classes=data.num_classes)
    # A few steps, but at least one to time after one to warm up, however short the training itself is.
    longer = training.model_copy(update={"epochs": max(training.epochs, _TIMED_STEPS)})
    distiller = Distiller(model, data, longer, signal=signal, seed=0, device=resolve_device(device))

    def timed(steps: int) -> float:
        started, first = time.perf_counter(), distiller.step
        distiller.advance(first + steps)
        return (time.perf_counter() - started) / max(1, distiller.step - first)

    once = timed(1)  # it warms up, and where it takes very long it says enough
    if once > _TIMED_ENOUGH:
        return once
    return timed(max(1, min(_TIMED_STEPS - 2, int(_TIMED_ENOUGH / max(timed(1), 1e-6)))))


def judging_seconds(
    architecture: Architecture, space: SearchSpace, data: Dataset, weights: InitialWeights | None, device: str
) -> tuple[float, float]:
    """Return the seconds that building a candidate takes, with its initial weights, and one look at validation data.

    The latter is measured on a part of the data.

    Raises:
        NasDistillError: it cannot be built, or fails on the data.
    """
    started = time.perf_counter()
    model = build_student(space, architecture, data, weights, seed=0).to(resolve_device(device))
    built = time.perf_counter()
    inputs = list(itertools.islice(data.inputs("val"), 1))
    predict_logits(model, inputs)
    looked = sum(len(batch) for batch in inputs)
    return built - started, (time.perf_counter() - built) * len(data.val) / max(1, looked)


def typical_judging(
    survey: Survey, space: SearchSpace, data: Dataset, weights: InitialWeights | None, config: SearchFile
) -> float | None:
    """Return the seconds that a typical candidate takes beside its training steps; None where that takes very long.

    They are measured as those of the steps are.
    """

    def measure() -> float:
        torch.set_num_threads(1)
        built, validated = judging_seconds(survey.typical.architecture, space, data, weights, config.device)
        return built + len(config.score.rungs) * validated

    try:
        if resolve_device(config.device).type == "cpu":
            return compute_apart(measure, seconds=_TIMED_SECONDS)
        return measure()
    except TimeoutError:
        return None
    except Exception:  # the builder is the user's code; the candidate fails when its turn comes
        return 0.0


@dataclass(frozen=True)
class Estimate:
    """Seconds that a search takes if nothing is pruned: the trials on ``workers`` workers, the finalists on theirs.

    None where that cannot be foreseen.
    """

    trials: float | None
    finalists: float | None
    workers: int
    final_workers: int

    @property
    def wall(self) -> float | None:
        """Seconds by the clock."""
        if self.trials is None or self.finalists is None:
            return None
        return self.trials / self.workers + self.finalists / self.final_workers


def choose_backend(search: SearchConfig, seconds: float | None) -> Literal["tune", "inline"]:
    """Return the backend of a search, or of a part of it that takes so many ``seconds`` on one worker.

    ``auto`` takes worker processes unless starting them takes longer than they save.
    """
    if search.backend != "auto":
        return search.backend
    if search.address is not None or search.gpus_per_worker > 0 or seconds is None:
        return "tune"
    return "inline" if seconds * (1 - 1 / search.workers) < _STARTUP_SECONDS else "tune"


def estimate_seconds(
    config: SearchFile, data: Dataset, step: float | None, trials: int, judging: float | None = 0.0
) -> Estimate:
    """Estimate a search's time.

    Args:
        config: of the search.
        data: what it trains on.
        step: seconds of a typical training step, None where they are not known.
        trials: how many candidates are trained.
        judging: seconds that a candidate takes beside its steps, None where they are not known.
    """

    def steps(training: TrainingConfig) -> float:
        return training.epochs * (len(data.train) // min(training.batch_size, len(data.train)))

    runs = config.final.count + (1 if config.final.baseline else 0)
    scored = config.score.rungs[-1] * steps(config.score)
    scoring = None if judging is None or (scored and step is None) else trials * (scored * (step or 0.0) + judging)
    finishing = None if step is None else runs * steps(config.final) * step

    def workers(seconds: float | None) -> int:
        return config.search.workers if choose_backend(config.search, seconds) == "tune" else 1

    return Estimate(scoring, finishing, workers(scoring), workers(finishing))
