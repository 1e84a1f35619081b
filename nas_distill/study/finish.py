"""The end of a search: export, verification and timing of finalists, then one test evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_distill.config import LatencyConfig, SearchFile
from nas_distill.costs.budget import Budget, Limit
from nas_distill.costs.latency import LATENCY
from nas_distill.costs.runtimes import Runtime
from nas_distill.costs.timing import time_file
from nas_distill.costs.undisturbed import noise
from nas_distill.data import SplitName
from nas_distill.data.splits import random_indices
from nas_distill.engine.candidates import Candidates, Pricing
from nas_distill.engine.finalists import baseline_key, best_finalist, choose_finalists, uniform_of
from nas_distill.engine.uniform import find_uniform, trial_of
from nas_distill.evaluate.predict import predict_logits
from nas_distill.export.parity import verify_export
from nas_distill.export.student import load_student
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import Journal
from nas_distill.runs.metadata import (
    UNIFORM,
    EvaluationRecord,
    ExportRecord,
    ExportsRecord,
    Finalist,
    GainRecord,
    LatencyFigures,
    ParityRecord,
    RunMetadata,
    UniformRecord,
)
from nas_distill.runs.records import TrialRecord, untried
from nas_distill.spaces import Architecture
from nas_distill.study.latency import time_candidate, time_teacher
from nas_distill.study.problem import SearchProblem
from nas_distill.utils.errors import BuildError, CostError, ExportError, NasDistillError, first_line
from nas_distill.utils.seeds import seeded_torch

_PARITY_SAMPLES = 512
_SMALLER = 5
"""Uniform networks that are timed in search of one within a limit of latency."""


def screened_finalists(
    problem: SearchProblem, journal: Journal, budget: Budget, records: Sequence[TrialRecord]
) -> list[TrialRecord]:
    """Return finalists; where the budget limits latency, each is timed first, and those over the limit are skipped.

    Latency does not depend on weights, so it can be measured before the full distillation. Call it only while nothing
    else runs. Candidates that cannot be timed are skipped too. If none is within the limit, the unscreened choice is
    returned, and the report mentions it.
    """
    config = problem.config
    limits = {name: limit.high for name, limit in budget.limits.items() if limit.high is not None}

    def choose(usable: Sequence[TrialRecord]) -> list[TrialRecord]:
        return choose_finalists(usable, config.search.objectives, limits, config.final.count, config.final.slope)

    if LATENCY not in limits:
        return choose(records)
    measured = dict(journal.metadata.measured_latency_ms)
    usable = list(records)
    with ExitStack() as stack:
        candidates: Candidates | None = None
        while chosen := choose(usable):
            skipped: set[str] = set()
            for record in chosen:
                if record.key not in measured:
                    candidates = candidates or stack.enter_context(problem.candidates())
                    try:
                        measured[record.key] = _measure(problem, record, candidates)
                    except (BuildError, CostError):
                        skipped.add(record.key)
                        continue
                    journal.note(measured_latency_ms=measured)
            skipped |= {record.key for record in chosen if measured.get(record.key, 0.0) > limits[LATENCY]}
            if not skipped:
                return chosen
            usable = [record for record in usable if record.key not in skipped]
    return choose(records)


def _measure(problem: SearchProblem, record: TrialRecord, candidates: Candidates) -> float:
    return time_candidate(problem, candidates, record.architecture).p50_ms


def screened_uniform(
    problem: SearchProblem, journal: Journal, pricing: Pricing, records: Sequence[TrialRecord]
) -> UniformRecord | None:
    """Return the uniform network; where the budget limits latency, the largest whose measured latency is within it.

    If the measured latency is over the limit, the largest is taken whose predicted latency is below the present one's
    by the factor of the excess, and so on; the journal then has that one. Without an architecture if none is within the
    limit, or if it cannot be timed. Call it only while nothing else runs.
    """
    uniform = journal.metadata.uniform
    limit = pricing.budget.limits.get(LATENCY)
    if uniform is None or limit is None or limit.high is None:
        return uniform
    with ExitStack() as stack:
        candidates: Candidates | None = None
        for _ in range(_SMALLER):
            if uniform.architecture is None:
                break
            architecture = Architecture(uniform.architecture)
            key = f"{UNIFORM}-{architecture.hash}"
            record = trial_of(architecture, records) or untried(key, architecture, uniform.costs)
            key = record.key
            measured = journal.metadata.measured_latency_ms
            if key not in measured:
                candidates = candidates or stack.enter_context(problem.candidates())
                try:
                    measured = {**measured, key: _measure(problem, record, candidates)}
                except (BuildError, CostError):
                    break
                journal.note(measured_latency_ms=measured)
            if measured[key] <= limit.high:
                return uniform
            allowed = Limit(limit.low, uniform.costs[LATENCY] * limit.high / measured[key])
            tighter = pricing.within(Budget({**pricing.budget.limits, LATENCY: allowed}))
            uniform = find_uniform(problem.space, tighter, problem.cuts)
            journal.note(uniform=uniform)
    none = uniform.model_copy(update={"architecture": None, "costs": {}})
    journal.note(uniform=none)
    return none


def read_student(problem: SearchProblem, folder: RunFolder, key: str) -> nn.Module:
    """Load a student of a run with the run's builder."""
    return load_student(folder.student(key), builder=problem.space.builder_function(), paths=problem.paths)


def export_student(
    problem: SearchProblem, student: nn.Module, architecture: str, path: Path, runtime: Runtime | None = None
) -> ExportRecord:
    """Export a student for a runtime, compare the file with PyTorch on validation samples, and time it.

    ``runtime``: the search file's unless given.

    Raises:
        CostError: the runtime is not installed.
        ExportError: it cannot be exported, or its outputs differ from the network's.
    """
    data, chosen = problem.data, runtime or problem.runtime
    notes = {
        "teacher": problem.teacher.name,
        "architecture": architecture,
        "normalisation": data.normalisation(),
        "class_names": None if data.classes is None else list(data.classes),
    }
    _export(chosen, student, problem.input_shape, path, notes)
    batches = [data.batch("val", index)[0] for index in random_indices(len(data.val), _PARITY_SAMPLES).split(128)]
    return _verified(chosen, student, path, batches, problem.config.latency, data.task)


def export_loaded(
    student: nn.Module, spec: Mapping[str, Any], config: SearchFile, path: Path, *, task: str, runtime: Runtime
) -> ExportRecord:
    """Export a student without the data and builder of its run; parity is checked on random samples.

    Args:
        student: the network.
        spec: content of its ``architecture.json``.
        config: its search file.
        path: of the file.
        task: name of the task.
        runtime: the target of the export.
    """
    shape = tuple(spec["input_shape"])
    notes = {"architecture": spec["hash"], **{key: spec.get(key) for key in ("normalisation", "class_names")}}
    _export(runtime, student, shape, path, notes)
    with seeded_torch(0, "parity"):
        batches = [noise(student, (128, *shape), torch.default_generator)]
    return _verified(runtime, student, path, batches, config.latency, task)


def _export(runtime: Runtime, student: nn.Module, shape: Sequence[int], path: Path, notes: Mapping[str, Any]) -> None:
    runtime.require()
    try:
        runtime.export(student, shape, path, notes)
    except NasDistillError:
        raise
    except Exception as error:  # the runtime may be the user's own
        raise ExportError(f"{path} cannot be exported for {runtime.title}: {first_line(error)}.") from error


def _verified(
    runtime: Runtime, student: nn.Module, path: Path, batches: Sequence[Tensor], latency: LatencyConfig, task: str
) -> ExportRecord:
    parity = verify_export(path, student, batches, runtime=runtime, task=task)
    shape = tuple(batches[0].shape[1:])
    settings: dict[str, Any] = {"batch": latency.batch, "threads": latency.threads, "repeats": latency.repeats}
    sample = time_file(path, shape, runtime=runtime, **settings)
    return ExportRecord(
        format=runtime.suffix.removeprefix("."),
        runtime=runtime.title,
        file=path.name,
        usage=runtime.usage("{path}", shape),
        bytes=path.stat().st_size,
        parity=ParityRecord.model_validate(asdict(parity)),
        latency=LatencyFigures(p50_ms=sample.p50_ms, p95_ms=sample.p95_ms, conditions=sample.conditions.text()),
    )


def export_finalists(problem: SearchProblem, folder: RunFolder, journal: Journal) -> None:
    """Export and time every finalist and time the teacher, unless recorded; call it only while nothing else runs."""
    if journal.metadata.exports is not None:
        return
    done: dict[str, ExportRecord] = {}
    for entry in journal.metadata.finalists.values():
        if entry.taught and entry.quality is not None:
            student = read_student(problem, folder, entry.key)
            path = folder.student(entry.key) / problem.runtime.file_name
            done[entry.key] = export_student(problem, student, Architecture(entry.architecture).hash, path)
    sample = time_teacher(problem)
    teacher = None if sample is None else LatencyFigures(p50_ms=sample.p50_ms, p95_ms=sample.p95_ms)
    journal.note(exports=ExportsRecord(students=done, teacher=teacher))


def evaluate_once(problem: SearchProblem, folder: RunFolder, journal: Journal) -> None:
    """Evaluate teacher, student, baseline and uniform network once per run.

    It is done on test data, or on validation data without a test split. The student and the uniform network are
    compared on the same samples.
    """
    known = journal.metadata
    winner = best_finalist(known.finalists.values())
    if known.evaluation is not None or winner is None:
        return
    split: SplitName = problem.data.splits[-1]
    labels = problem.data.labels(split)

    def logits_of(module: nn.Module) -> Any:
        return predict_logits(module, problem.data.inputs(split))

    teacher, task = logits_of(problem.teacher.module), problem.task
    uniform = uniform_of(known)
    outputs: dict[str, Any] = {}
    for entry in (winner, baseline_of(winner, known), uniform):
        if entry is not None and entry.quality is not None and entry.key not in outputs:
            outputs[entry.key] = logits_of(read_student(problem, folder, entry.key))
    gain = None
    if uniform is not None and uniform.key in outputs and uniform.architecture != winner.architecture:
        found = task.difference(outputs[winner.key], outputs[uniform.key], labels)
        gain = GainRecord(difference=found.difference, low=found.low, high=found.high, samples=len(labels))
    journal.note(
        evaluation=EvaluationRecord(
            split=split,
            student=winner.key,
            teacher=vars(task.evaluate(teacher, labels)),
            students={key: vars(task.evaluate(found, labels, teacher)) for key, found in outputs.items()},
            validation_samples=len(problem.data.val),
            gain=gain,
        )
    )


def baseline_of(winner: Finalist, metadata: RunMetadata) -> Finalist | None:
    """Return the same architecture trained on labels only."""
    entries = metadata.finalists.values()
    return next((entry for entry in entries if not entry.taught and entry.key == baseline_key(winner.key)), None)
