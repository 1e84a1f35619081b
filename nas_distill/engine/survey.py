"""Survey before a search: candidate costs, feasible share, and estimated time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from nas_distill.config import SearchFile, TrainingConfig
from nas_distill.data import Dataset
from nas_distill.distill import Distiller
from nas_distill.distill.schedule import Length
from nas_distill.engine.backends import choose_backend
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.child import CallError, CallTimeoutError, Child
from nas_distill.engine.work import Limit, Work
from nas_distill.evaluate.predict import predict_logits
from nas_distill.spaces import Architecture, NetworkBuilder, SearchSpace
from nas_distill.teacher import TeacherSignal
from nas_distill.utils.errors import BudgetError, BuildError, RunError, first_line
from nas_distill.utils.modules import resolve_device
from nas_distill.utils.seeds import numpy_rng

_SAMPLES = 150
_FEWEST, _SECONDS = 24, 15.0
"""Candidates that are costed however long it takes, and the seconds after which no more are."""
_TIMED_STEPS = 8
_TIMED_ENOUGH = 3.0
"""Seconds of training steps after which no more are timed."""
_TIMED_CANDIDATES = 3
_TIMED_SECONDS = 20.0
_GENEROUS = 10.0  # workers share processors, and with them caches and memory
_LEAST_SECONDS = 600.0
_UNKNOWN_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Candidate:
    """An architecture and its costs."""

    architecture: Architecture
    costs: dict[str, float]


@dataclass(frozen=True)
class Survey:
    """Random candidates of a space, cheapest first (by the first cost objective).

    ``failures`` are first lines of what builders raised. ``share`` is the share of candidates within all limits,
    ``shares`` within each; ``seconds`` is the time that this took.
    """

    candidates: tuple[Candidate, ...]
    fitting: tuple[Candidate, ...]
    failures: tuple[str, ...]
    share: float
    shares: dict[str, float]
    seconds: float = field(compare=False)

    @property
    def cheapest(self) -> Candidate:
        """The cheapest candidate."""
        return self.candidates[0]

    @property
    def median(self) -> Candidate:
        """The candidate in the middle."""
        return self.candidates[len(self.candidates) // 2]

    @property
    def largest(self) -> Candidate:
        """The largest candidate."""
        return self.candidates[-1]

    def spread(self, by: str) -> float:
        """Return how many times the cost ``by`` of the typical candidate the largest within the budget has."""
        typical = self.typical.costs[by]
        return max(1.0, self.fitting[-1].costs[by] / typical) if typical > 0 else 1.0

    @property
    def typical(self) -> Candidate:
        """The middle one of those within the budget: the model of a trial of the search."""
        return self.fitting[len(self.fitting) // 2]


def survey_space(
    space: SearchSpace,
    pricing: Pricing,
    *,
    by: str,
    seed: int,
    samples: int = _SAMPLES,
    on_step: Callable[[int, int], None] | None = None,
) -> Survey:
    """Compute costs of the smallest, the largest and ``samples`` random architectures, of fewer if that takes long.

    ``on_step`` gets the number of architectures so far and in all.

    Raises:
        BudgetError: none of them fits; names the limit that binds and the cheapest candidate found.
        RunError: none of them can be built; gives the first cause.
        StorageError: a disk is full.
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
            found.append(Candidate(architecture, pricing(architecture)))
        except BuildError as error:
            failures.append(first_line(error))
    if not found:
        raise RunError(
            f"none of {len(failures)} architectures of space '{space.name}' could be built; the first failed with: "
            f"{failures[0].rstrip('.')}."
        )
    budget = pricing.budget
    found.sort(key=lambda candidate: candidate.costs[by])
    fitting = [candidate for candidate in found if budget.fits(candidate.costs)]
    if not fitting:
        raise BudgetError(budget.infeasible([candidate.costs for candidate in found]))
    shares = {
        name: float(np.mean([limit.excess(candidate.costs[name]) == 0 for candidate in found]))
        for name, limit in budget.limits.items()
    }
    seconds = time.monotonic() - began
    return Survey(tuple(found), tuple(fitting), tuple(failures), len(fitting) / len(found), shares, seconds)


def typical_seconds(
    survey: Survey,
    builder: NetworkBuilder,
    data: Dataset,
    signal: TeacherSignal | None,
    training: TrainingConfig,
    device: str,
) -> float | None:
    """Return the seconds of one training step of a typical candidate; None where a few of them cannot be timed.

    They are trained in a process of their own: a candidate that crashes it is a failed trial when its turn comes, and
    must not end the search here.

    Raises:
        RunError: data or teacher cannot be sent to another process.
        StorageError: a disk is full.
    """
    middle = len(survey.fitting) // 2
    nearest = sorted(range(len(survey.fitting)), key=lambda place: abs(place - middle))
    with Child(_StepTimer(builder, data, signal, training, device)) as child:
        for place in nearest[:_TIMED_CANDIDATES]:
            try:
                found = child.call("seconds", survey.fitting[place].architecture, seconds=_TIMED_SECONDS)
                return float(found)
            except CallTimeoutError:  # the others are at least as large
                return None
            except CallError:
                continue
    return None


@dataclass(frozen=True)
class _StepTimer:
    """Target of the process that times training steps."""

    builder: NetworkBuilder
    data: Dataset
    signal: TeacherSignal | None
    training: TrainingConfig
    device: str

    def seconds(self, architecture: Architecture) -> float:
        """Return the seconds of a training step."""
        return seconds_per_step(architecture, self.builder, self.data, self.signal, self.training, self.device)


def seconds_per_step(
    architecture: Architecture,
    builder: NetworkBuilder,
    data: Dataset,
    signal: TeacherSignal | None,
    training: TrainingConfig,
    device: str,
) -> float:
    """Return the seconds that one training step of an architecture takes, measured on a few steps.

    Raises:
        NasDistillError: it cannot be built or trained.
    """
    model = builder.build(architecture, 0, stream="timing")
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


def overhead_seconds(
    architecture: Architecture, builder: NetworkBuilder, data: Dataset, device: str
) -> tuple[float, float]:
    """Return the seconds of building a candidate with its initial weights, and of one evaluation on validation data.

    The latter is measured on a part of the data.

    Raises:
        NasDistillError: it cannot be built, or fails on the data.
    """
    started = time.perf_counter()
    model = builder.build_student(architecture, 0).to(resolve_device(device))
    built = time.perf_counter()
    inputs = list(itertools.islice(data.inputs("val"), 1))
    predict_logits(model, inputs)
    looked = sum(len(batch) for batch in inputs)
    return built - started, (time.perf_counter() - built) * len(data.val) / max(1, looked)


def typical_overhead(survey: Survey, builder: NetworkBuilder, data: Dataset, config: SearchFile) -> float | None:
    """Return the seconds that a typical candidate takes beside its training steps; None where that takes very long.

    They are measured in a process of their own, as training steps are.
    """
    with Child(_OverheadTimer(builder, data, config.device)) as child:
        try:
            built, validated = child.call("seconds", survey.typical.architecture, seconds=_TIMED_SECONDS)
        except CallTimeoutError:
            return None
        except CallError:  # the builder is the user's code; the candidate fails when its turn comes
            return 0.0
    return float(built + len(config.score.rungs) * validated)


@dataclass(frozen=True)
class _OverheadTimer:
    """Target of the process that times the rest of a trial."""

    builder: NetworkBuilder
    data: Dataset
    device: str

    def seconds(self, architecture: Architecture) -> tuple[float, float]:
        """Return the seconds of building a candidate, and of one evaluation on validation data."""
        return overhead_seconds(architecture, self.builder, self.data, self.device)


@dataclass(frozen=True)
class Estimate:
    """Seconds that a search takes if nothing is pruned: the trials on ``workers`` workers, the finalists on theirs.

    ``step``: of one training step of a typical candidate. None where that is unknown.
    """

    trials: float | None
    finalists: float | None
    workers: int
    final_workers: int
    step: float | None = None

    @property
    def wall(self) -> float | None:
        """Seconds by the clock."""
        if self.trials is None or self.finalists is None:
            return None
        return self.trials / self.workers + self.finalists / self.final_workers


def estimate_seconds(
    config: SearchFile, data: Dataset, step: float | None, trials: int, overhead: float | None = 0.0
) -> Estimate:
    """Estimate a search's time.

    Args:
        config: of the search.
        data: what it trains on.
        step: seconds of a typical training step, None where they are not known.
        trials: how many candidates are trained.
        overhead: seconds that a candidate takes beside its steps, None where they are not known.
    """
    final = config.final
    # The uniform network exists only within limits; it may be among the finalists anyway, which is known only later.
    runs = final.count + sum((final.baseline, final.uniform and bool(config.budget)))
    scored = config.score.rungs[-1] * _steps(config.score.training, data)
    scoring = None if overhead is None or (scored and step is None) else trials * (scored * (step or 0.0) + overhead)
    finishing = None if step is None else runs * _steps(config.final.training, data) * step

    def workers(seconds: float | None) -> int:
        return config.search.workers if choose_backend(config.search, seconds) == "tune" else 1

    return Estimate(scoring, finishing, workers(scoring), workers(finishing), step)


def trial_limit(config: SearchFile, data: Dataset, step: float | None = None, spread: float = 1.0) -> Limit:
    """Return how long a training may take before it is ended as failed.

    Args:
        config: may say so itself, for short distillations; a longer training gets more in proportion to its steps.
        data: that is trained on.
        step: seconds of a typical training step, None where they are not known.
        spread: how many times the cost of the typical candidate the largest within the budget has.
    """
    minutes = config.search.trial_limit_minutes

    def limit(work: Work) -> float | None:
        steps = _steps(work.training, data)
        if minutes is not None:
            return 60 * minutes * max(1.0, steps / _steps(config.score.training, data))
        return _UNKNOWN_SECONDS if step is None else max(_LEAST_SECONDS, _GENEROUS * spread * step * steps)

    return limit


def _steps(training: TrainingConfig, data: Dataset) -> int:
    return Length(len(data.train), training.batch_size, training.epochs).steps
