"""Metadata of a run: one versioned record, kept in its journal beside the trials."""

from __future__ import annotations

import json
import platform
import socket
from collections.abc import Mapping
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from nas_distill.evaluate.intervals import RankCorrelation
from nas_distill.spaces import Architecture
from nas_distill.utils.errors import RunError

SCHEMA_VERSION = 3
"""Version of the run format that this package reads and writes. Version 1 had no field for it."""

UNIFORM = "uniform"
"""Key of the full training of the uniform network if it was not a candidate of the search."""

_VERSION_FIELD = "schema_version"
_COMPUTES_SCORES = ("python", "nas-distill", "torch")


class Phase(StrEnum):
    """The phases of a search and of a calibration; users read the values, which are also the keys of the timings."""

    PRUNING_PLAN = "pruning plan"
    LATENCY = "latency calibration"
    SURVEY = "survey of the space"
    TEACHER_VALIDATION = "teacher validation"
    TEACHER_STORE = "teacher store"
    STEP_TIMING = "step timing"
    IMPORTANCE = "unit importance"
    ALLOCATION = "allocation"
    BLOCKWISE = "blockwise distillation"
    NOISE_PROBE = "noise probe"
    SEARCH = "search"
    FULL_DISTILLATION = "full distillation"
    EXPORT = "export"
    EVALUATION = "evaluation"
    REPORT = "report"
    SAMPLING = "sampling architectures"
    CALIBRATION = "calibration"
    OTHER = "other"  # the time that no phase accounts for


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Host(_Part):
    """The machine that figures of time depend on."""

    name: str
    system: str
    processor: str


class DataRecord(_Part):
    """The data of a search."""

    name: str
    fingerprint: str


class TeacherRecord(_Part):
    """The teacher of a search.

    Attributes:
        name: what it is called.
        costs: by cost name.
        validation: quality on validation data; higher is better.
    """

    name: str
    costs: dict[str, float]
    validation: float


class LatencyRecord(_Part):
    """The latency calibration; both are None where nothing is predicted or this machine cannot time it.

    Attributes:
        model: the predictor, as ``LatencyModel.to_dict`` writes it.
        teacher_ms: the teacher's measured latency.
    """

    model: dict[str, Any] | None
    teacher_ms: float | None


class Unpruned(_Part):
    """A module of the teacher that no student is cut in, with the reason."""

    module: str
    reason: str


class SurveyRecord(_Part):
    """The table of costs that is shown before a search.

    Attributes:
        cheapest, median, largest: costs of three candidates within the budget, by cost name.
        share: share of candidates within all limits; ``shares`` within each, by cost name.
        candidates: number of candidates of the survey.
        estimated_seconds: estimated duration of search and full distillations; None if unknown.
        final_workers: workers of the full distillations.
        samples_per_step: samples of a training step.
    """

    cheapest: dict[str, float]
    median: dict[str, float]
    largest: dict[str, float]
    share: float
    shares: dict[str, float]
    candidates: int
    estimated_seconds: float | None
    final_workers: int
    samples_per_step: int


class StoreRecord(_Part):
    """The store of the teacher's answers: its key, its size, and the seconds that ``samples`` answers took."""

    key: str
    bytes: int
    seconds: float
    samples: int


class BlockLibraryRecord(_Part):
    """Blockwise distillation: how many alternatives were trained, and how many samples were presented to them."""

    alternatives: int
    presented: int


class BlockWeightsRecord(_Part):
    """Weights of local block scores, fitted to assembled students; see ``blockwise.fit.BlockWeights``."""

    weights: tuple[float, ...]
    slope: float
    intercept: float
    strength: float
    plain: RankCorrelation
    fitted: RankCorrelation
    held_out: tuple[float, ...]


class UniformRecord(_Part):
    """The uniform network: the best one within the budget that needs no search.

    Attributes:
        name: ``uniform narrowing`` of the teacher, or ``uniform scaling`` of the parameters of another space.
        architecture: nested values of its parameters; None if nothing uniform is within the budget, or nothing is
            limited.
        costs: by cost name.
    """

    name: str
    architecture: dict[str, Any] | None
    costs: dict[str, float]

    @property
    def architectures(self) -> list[Architecture]:
        """The architecture, or nothing."""
        return [] if self.architecture is None else [Architecture(self.architecture)]


class Finalist(_Part):
    """A full training of a finalist, or of the baseline.

    Attributes:
        key: name of the training.
        trial: number of its trial; None for the uniform network if it was not a candidate of the search.
        architecture: nested values of its parameters.
        costs: by cost name.
        taught: False marks the baseline, which is trained on labels only.
        score: quality after its short distillation; None for a trial that was stopped.
        quality: validation quality at its end, higher is better; None if it failed or has not ended.
        qualities: validation quality by epoch.
        seconds: training time.
        steps: training steps.
        cause: why it failed; None if it did not.
        recipe: digest of training and seed, without which qualities do not compare.
    """

    key: str
    trial: int | None
    architecture: dict[str, Any]
    costs: dict[str, float]
    taught: bool
    score: float | None
    quality: float | None = None
    qualities: tuple[float, ...] = ()
    seconds: float = 0.0
    steps: int = 0
    cause: str | None = None
    recipe: str = ""

    @property
    def done(self) -> bool:
        """True if it has ended, successfully or not."""
        return self.quality is not None or self.cause is not None

    @property
    def title(self) -> str:
        """Name of its network in texts: ``trial 7``, or ``uniform network`` if it was not a candidate."""
        return "uniform network" if self.trial is None else f"trial {self.trial}"


class LatencyFigures(_Part):
    """Measured times of one forward pass, in ms, and the conditions in words."""

    p50_ms: float
    p95_ms: float
    conditions: str | None = None


class ParityRecord(_Part):
    """Comparison of an exported file with its network; see ``export.verify.Parity``."""

    max_abs_difference: float
    logit_scale: float
    same_predictions: float
    count: int
    batch_sizes: tuple[int, ...]


class ExportRecord(_Part):
    """An exported file: format, size in bytes, parity with its network, and latency on this machine.

    ``runtime``: title of the deployment runtime; ``usage``: code that loads the file from ``{path}``.
    """

    format: str
    bytes: int
    parity: ParityRecord
    latency: LatencyFigures
    runtime: str = "ONNX Runtime"
    file: str = "model.onnx"
    usage: str = ""


class ExportsRecord(_Part):
    """Exports of the finalists by training, and the latency of the teacher (None where it cannot be timed)."""

    students: dict[str, ExportRecord]
    teacher: LatencyFigures | None


class GainRecord(_Part):
    """Quality of the student minus that of the uniform network, on the same samples; above 0 the search has gained.

    Attributes:
        difference: in units of quality.
        low, high: 95 % interval over samples; None if it is undefined. It does not cover the variation of trainings.
        samples: number of samples.
    """

    difference: float
    low: float | None
    high: float | None
    samples: int


class EvaluationRecord(_Part):
    """The single evaluation on test data (on validation data where there is none).

    Attributes:
        split: of the data.
        student: training of the student that was chosen.
        teacher: fields of the task's evaluation record; ``tasks.read_evaluation`` reads them.
        students: the same for student, baseline and uniform network, by training.
        validation_samples: size of the validation split.
        gain: of the student over the uniform network; None without one, or if the student is the uniform network.
    """

    split: Literal["train", "val", "test"]
    student: str
    teacher: dict[str, Any]
    students: dict[str, dict[str, Any]]
    validation_samples: int
    gain: GainRecord | None = None


class Reading(_Part):
    """Report of a trial of an earlier run at a rung; see ``runs.records.Rung``."""

    quality: float
    step: int
    seconds: float
    share: float


class TakenTrial(_Part):
    """A finished trial of an earlier run that is taken over with its score.

    Attributes:
        trial: its number in that run.
        architecture: nested values of its parameters.
        costs: by cost name, counted for this search.
        readings: by rung, from the first.
    """

    trial: int
    architecture: dict[str, Any]
    costs: dict[str, float]
    readings: tuple[Reading, ...]


class EarlierRun(_Part):
    """Trials and architectures that a search has taken from an earlier run of its space.

    Attributes:
        run: its folder, as the search file names it.
        differs: sections of the two searches that differ, so that scores do not compare; empty if they compare.
        trials: trials taken over with their scores, if scores compare.
        candidates: architectures that are trained again as first candidates, if scores do not compare.
        outside: finished trials outside the budget, which are left out.
        unread: why the run could not be read, a clause; None if it was read.
    """

    run: str
    differs: tuple[str, ...] = ()
    trials: tuple[TakenTrial, ...] = ()
    candidates: tuple[dict[str, Any], ...] = ()
    outside: int = 0
    unread: str | None = None


class RunMetadata(_Part):
    """Facts of a run as a whole; None (or empty) means not known yet.

    Attributes:
        identity: section of the search -> digest; what scores depend on (runs/journal.py).
        seed, host, versions: of the process that began the run.
        data: name and fingerprint of the data.
        task: name of the task.
        base: folder of relative files of the search, as seen from the run's folder.
        teacher: name, costs and validation quality of the teacher.
        constant_quality: validation quality of the best constant answer.
        latency: the predictor of latency, and the teacher's measured latency.
        unpruned: modules of the teacher that no student is cut in.
        survey: the table shown before the search.
        store: the teacher's stored answers.
        blocks: blockwise distillation.
        block_weights: weights of local scores, fitted to assembled students.
        objectives: names of the objectives, in order.
        budget: the limits, as ``Budget.to_dict`` writes them.
        reference: cost -> the reference of the hypervolume.
        uniform: the best network that needs no search; None in runs of versions without it.
        first_candidates: the architectures tried before the sampler begins.
        warm_start: what was taken from earlier runs; None if there was no such request. Read from them once.
        margin: the pruning margin, one number or one per rung.
        startup_seconds: time spent waiting for workers to begin.
        measured_latency_ms: training -> ms, of candidates for finalists under a latency limit.
        finalists: full trainings, by key.
        exports: exports and timings; None until all are done.
        evaluation: the evaluation on test data.
        timings: seconds by phase, over all sessions.
        phase: the current phase.
        end_reason: why no more trials were started, a sentence.
        finished: whether there is nothing left to resume.
    """

    schema_version: int = SCHEMA_VERSION
    identity: dict[str, str] = {}
    seed: int | None = None
    host: Host | None = None
    versions: dict[str, str] = {}
    data: DataRecord | None = None
    task: str = "classification"
    base: str = ".."
    teacher: TeacherRecord | None = None
    constant_quality: float | None = None
    latency: LatencyRecord | None = None
    unpruned: tuple[Unpruned, ...] = ()
    survey: SurveyRecord | None = None
    store: StoreRecord | None = None
    blocks: BlockLibraryRecord | None = None
    block_weights: BlockWeightsRecord | None = None
    objectives: tuple[str, ...] = ()
    budget: dict[str, dict[str, float]] = {}
    reference: dict[str, float] = {}
    uniform: UniformRecord | None = None
    first_candidates: tuple[dict[str, Any], ...] | None = None
    warm_start: tuple[EarlierRun, ...] | None = None
    margin: float | tuple[float, ...] | None = None
    startup_seconds: float | None = None
    measured_latency_ms: dict[str, float] = {}
    finalists: dict[str, Finalist] = {}
    exports: ExportsRecord | None = None
    evaluation: EvaluationRecord | None = None
    timings: dict[Phase, float] = {}
    phase: Phase | None = None
    end_reason: str | None = None
    finished: bool = False

    @classmethod
    def read(cls, attributes: Mapping[str, Any], path: Path) -> Self:
        """Return the metadata that the study attributes of the journal at ``path`` hold.

        Raises:
            RunError: they are of another schema version, or invalid.
        """
        check_version(attributes, path)
        try:
            return cls.model_validate_json(json.dumps(dict(attributes)), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise RunError(
                f"{path}: '{where}' of the run's metadata is invalid ({first['msg']}); restore the file from a copy."
            ) from error

    def changed(self, **changes: Any) -> Self:
        """Return the metadata with some fields changed.

        Raises:
            pydantic.ValidationError: a field is unknown, or a value is not of its type.
        """
        changed = self.model_validate({**dict(self), **changes})
        # Through JSON, so that this process has the values that another would read.
        return self.model_validate_json(changed.model_dump_json())

    def differences(self, other: RunMetadata) -> dict[str, Any]:
        """Return the fields whose values differ in ``other``, with those values, as JSON."""
        ours, theirs = self.model_dump(mode="json"), other.model_dump(mode="json")
        # As text, in which NaN equals NaN.
        return {name: value for name, value in theirs.items() if json.dumps(value) != json.dumps(ours[name])}

    def changed_versions(self) -> dict[str, tuple[str, str]]:
        """Return the changed versions of packages that scores depend on: name -> (when the run began, now)."""
        now = versions()
        return {
            name: (self.versions[name], now[name])
            for name in _COMPUTES_SCORES
            if name in self.versions and name in now and self.versions[name] != now[name]
        }


def check_version(attributes: Mapping[str, Any], path: Path) -> None:
    """Refuse study attributes of another schema version.

    Raises:
        RunError: the journal at ``path`` was written by an earlier or a later version of nas_distill.
    """
    found = attributes.get(_VERSION_FIELD, 1)
    if found == SCHEMA_VERSION:
        return
    if not isinstance(found, int) or isinstance(found, bool):
        raise RunError(f"{path}: '{_VERSION_FIELD}' is {found!r}, which is not a version; restore it from a copy.")
    when = "an earlier" if found < SCHEMA_VERSION else "a later"
    raise RunError(
        f"{path} was written by {when} version of nas_distill (its format is {found}, this version reads "
        f"{SCHEMA_VERSION}); open the run with the version that wrote it, or search again in another folder."
    )


def host() -> Host:
    """Return the machine that this process runs on."""
    return Host(name=socket.gethostname(), system=platform.platform(), processor=_processor())


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on, as far as installed."""
    found = {"python": platform.python_version()}
    for package in ("nas-distill", "torch", "optuna", "ray", "numpy", "onnx", "onnxruntime", "fvcore"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123
            for line in stream:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
