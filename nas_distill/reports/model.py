"""Data classes of reports: plain figures that tables, cards and JSON are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas_distill.costs.budget import Limit
from nas_distill.tasks import Evaluation


@dataclass(frozen=True)
class CostRow:
    """A cost over a sample of the space.

    Attributes:
        name: name of the cost.
        cheapest: this cost of the candidate that is cheapest by the first objective.
        median: of the one in the middle by the first objective; so the columns of a table are three candidates.
        largest: of the largest by the first objective.
        teacher: the teacher's own.
        limit: the budget's, if there is one.
        fits: share of the sampled candidates within the limit.
        objective: whether the search minimises it.
        error: typical relative error of a predicted cost (0.05: within 5 % for half of the candidates); None if exact.
    """

    name: str
    cheapest: float
    median: float
    largest: float
    teacher: float | None = None
    limit: Limit | None = None
    fits: float | None = None
    objective: bool = False
    error: float | None = None


@dataclass(frozen=True)
class CostSummary:
    """Costs and estimated times before a search trains anything.

    Attributes:
        space: name of the search space.
        size: of the space, as a text, e.g. "1.2e9 architectures (exact)".
        sampled: number of candidates evaluated.
        rows: one per cost, objectives first.
        trials: candidates to be trained.
        workers: number of workers that train in parallel.
        unbuildable: number of sampled candidates that the builder refused.
        first_cause: error of the first of those.
        fits_all: share of the sampled candidates within all limits.
        search_seconds: estimated wall time of the search if nothing were pruned.
        final_seconds: estimated wall time of the full distillations.
        conditions: of latencies: runtime, batch, threads, processor.
        seconds: time of the survey.
    """

    space: str
    size: str
    sampled: int
    rows: tuple[CostRow, ...]
    trials: int
    workers: int
    unbuildable: int = 0
    first_cause: str | None = None
    fits_all: float | None = None
    search_seconds: float | None = None
    final_seconds: float | None = None
    conditions: str | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class FinalistResult:
    """A candidate that was distilled in full.

    ``short`` is the validation quality of its short distillation, ``full`` that of the full one (None if it failed with
    ``cause``); ``chosen`` marks the student, ``uniform`` the network that needs no search. ``trial`` is None if that
    was not a candidate of the search.
    """

    trial: int | None
    costs: Mapping[str, float]
    short: float | None
    full: float | None
    chosen: bool = False
    cause: str | None = None
    uniform: bool = False

    @property
    def title(self) -> str:
        """Its name in texts: ``trial 7``, or ``uniform network`` if it was not a candidate."""
        return "uniform network" if self.trial is None else f"trial {self.trial}"


@dataclass(frozen=True)
class ModelResult:
    """A model as the final report shows it: the teacher, the student, or a network to compare it with.

    Attributes:
        name: in headers.
        evaluation: on test data; None without test data or before the evaluation.
        validation: quality on validation data, optimistic for the student, which was chosen by it.
        costs: counted; ``latency_ms`` among them is the predicted one.
        latency_p50_ms: median, measured on the exported file.
        latency_p95_ms: 95th percentile, measured on the exported file.
    """

    name: str
    evaluation: Evaluation | None = None
    validation: float | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None


@dataclass(frozen=True)
class Savings:
    """Numbers of trained and skipped candidates, and the time that was saved.

    Attributes:
        complete: candidates trained to the end.
        pruned: candidates that were stopped.
        failed: candidates that failed.
        over_budget: candidates outside the budget, recorded and never trained.
        below: those of them that violate only lower limits.
        duplicates: candidates proposed again, which are not trained again.
        trained_seconds: training time, summed over all workers.
        pruning_saved_seconds: remaining training time of stopped candidates, at the speed of each.
        store_seconds: time of running the teacher once; 0 if the store existed already.
        store_saved_seconds: additional time that running the teacher beside every student would have taken.
        wall_seconds: wall time over all sessions of the run.
        phases: these seconds by phase, in order; they add up to ``wall_seconds``.
    """

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    over_budget: int = 0
    duplicates: int = 0
    trained_seconds: float = 0.0
    pruning_saved_seconds: float = 0.0
    store_seconds: float | None = None
    store_saved_seconds: float | None = None
    wall_seconds: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    below: int = 0


@dataclass(frozen=True)
class Trust:
    """Agreement of short scores with full quality among finalists (``reports/trust.py`` computes it).

    Attributes:
        finalists: number of compared finalists.
        kendall: Kendall's tau-b of short and full quality, in [-1, 1]; higher is better; None where undefined.
        interval: its 95 % interval (bootstrap); None below five finalists.
        regret: full quality of the best finalist less that of the one whose short score was highest; a share, at least
            0; lower is better.
    """

    finalists: int
    kendall: float | None
    interval: tuple[float, float] | None
    regret: float | None


@dataclass(frozen=True)
class ExportResult:
    """An exported file and the result of its verification (``export/parity.py``).

    ``runtime``: title of the runtime that it is for; ``usage``: code that loads it from ``{path}``, empty for none.
    """

    path: str
    bytes: int
    max_abs_difference: float
    same_predictions: float
    count: int
    logit_scale: float | None = None
    runtime: str = ""
    usage: str = ""


@dataclass(frozen=True)
class Gain:
    """Quality of the student minus that of the uniform network, on the same samples of the report's split.

    Attributes:
        over: name of the uniform network: ``uniform narrowing`` or ``uniform scaling``.
        student_is_uniform: whether the student is the uniform network; all differences are then 0.
        difference: in units of quality (a share); above 0 the search has gained.
        low: lower end of its 95 % interval over samples, which does not cover the variation between trainings; None if
            it is undefined.
        high: upper end.
        samples: number of samples.
        costs: the student's costs divided by the uniform network's, by name; below 1 the student is cheaper.
        speed: the uniform network's measured median latency divided by the student's; above 1 the student is faster.
    """

    over: str
    student_is_uniform: bool
    difference: float
    low: float | None
    high: float | None
    samples: int
    costs: Mapping[str, float] = field(default_factory=dict)
    speed: float | None = None

    @property
    def verdict(self) -> Literal["gain", "loss", "tie"]:
        """``gain`` or ``loss`` if the interval is above or below 0; else ``tie``, which may be chance."""
        if self.low is None or self.high is None or self.student_is_uniform or self.low <= 0 <= self.high:
            return "tie"
        return "gain" if self.low > 0 else "loss"


@dataclass(frozen=True)
class FinalReport:
    """Result of a search.

    Attributes:
        run: the run's folder, as the user names it.
        teacher: the teacher.
        student: the best finalist.
        trial: the student's trial; None if it is the uniform network, and that was not a candidate of the search.
        architecture: hash of the student's architecture.
        values: its parameters, nested.
        baseline: the same architecture trained only on hard labels.
        uniform: the best network that needs no search, distilled with the same number of samples; None if there is
            none.
        gain: of the student over ``uniform``.
        finalists: all of them, the chosen one marked.
        limits: the budget, by cost.
        split: the data of ``evaluation`` of the three models.
        task: name of the task.
        savings: numbers of candidates, and the time that was saved.
        trust: how well short scores ranked the finalists.
        exports: files that were exported and checked.
        conditions: of the measured latencies.
        notes: further sentences to show.
    """

    run: str
    teacher: ModelResult
    student: ModelResult
    trial: int | None
    architecture: str
    values: Mapping[str, Any] = field(default_factory=dict)
    baseline: ModelResult | None = None
    uniform: ModelResult | None = None
    gain: Gain | None = None
    finalists: tuple[FinalistResult, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    savings: Savings | None = None
    trust: Trust | None = None
    exports: tuple[ExportResult, ...] = ()
    conditions: str | None = None
    notes: tuple[str, ...] = ()
    split: str = "test"
    task: str = "classification"

    @property
    def student_folder(self) -> str:
        """The student's folder, which holds its exported file; the run's folder before the export."""
        return str(Path(self.exports[0].path).parent) if self.exports else self.run

    @property
    def speed_up(self) -> float | None:
        """The teacher's measured median latency divided by the student's; higher is better."""
        return ratio(self.teacher.latency_p50_ms, self.student.latency_p50_ms)


@dataclass(frozen=True)
class CardFacts:
    """Facts of a student's card that are not in the report.

    Attributes:
        title: name of the student.
        data: name of the data.
        input_shape: of one sample.
        num_classes: length of the output: classes, labels or targets.
        teacher: the teacher's name.
        builder: reference of the builder.
        seed: of the run.
        samples: sizes of the splits, by name.
        class_names: one per class, or None.
        normalisation: ``{"scale", "mean", "std"}``; the latter two may be None.
        teacher_fingerprint: digest of the teacher's weights.
        training: text on the student's training by heading, e.g. {"loss": "KD, T = 4"}.
        loads_by: way for another program to load the student: ``builder`` (by its name), ``graph`` (if the builder may
            not be importable), or ``own builder`` (the caller passes one, if neither works).
        versions: package -> version.
        host: the machine of all timings.
        created: a date.
        limits_of_use: further sentences.
    """

    title: str
    data: str
    input_shape: tuple[int, ...]
    num_classes: int
    teacher: str
    builder: str
    seed: int
    samples: Mapping[str, int] = field(default_factory=dict)
    class_names: tuple[str, ...] | None = None
    normalisation: Mapping[str, Any] | None = None
    teacher_fingerprint: str | None = None
    training: Mapping[str, str] = field(default_factory=dict)
    loads_by: Literal["builder", "graph", "own builder"] = "builder"
    versions: Mapping[str, str] = field(default_factory=dict)
    host: str | None = None
    created: str | None = None
    limits_of_use: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProgressView:
    """State of a run for the live view.

    Attributes:
        phase: the current phase, e.g. "teacher store", "calibration", "search", "full distillation", "export".
        done: finished units of this phase.
        total: all units of this phase; 0 if unknown.
        unit: name of the units in the plural, e.g. "trials".
        running: trials in training.
        complete: trials trained to the end.
        pruned: trials that were stopped.
        failed: trials that failed.
        over_budget: candidates outside the budget, which are never trained.
        below: those of them that violate only lower limits.
        duplicates: candidates that were proposed again.
        best_quality: highest quality of a complete trial within budget.
        best_trial: its number.
        best_costs: its costs.
        front_size: number of trials on the front.
        hypervolume: of the front, in [0, 1]; higher is better.
        elapsed_seconds: of this session.
        left_seconds: estimated remaining time; None if unknown.
        stopping: whether the user asked to stop.
    """

    phase: str
    done: float = 0
    total: float = 0
    unit: str = "trials"
    running: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    over_budget: int = 0
    duplicates: int = 0
    best_quality: float | None = None
    best_trial: int | None = None
    best_costs: Mapping[str, float] = field(default_factory=dict)
    front_size: int = 0
    hypervolume: float | None = None
    elapsed_seconds: float = 0.0
    left_seconds: float | None = None
    stopping: bool = False
    below: int = 0


def ratio(above: float | None, below: float | None) -> float | None:
    """Return ``above / below`` if both are known and above 0, else None."""
    if above is None or below is None or not (above > 0 and below > 0):
        return None
    return above / below
