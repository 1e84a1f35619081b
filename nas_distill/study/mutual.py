"""Mutual learning of trials of a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

from nas_distill.distill import Distiller
from nas_distill.distill.mutual import MutualSignal, advance_mutual, connect_peers
from nas_distill.engine.evaluator import write_student
from nas_distill.engine.finalists import recipe_of
from nas_distill.export.provenance import Provenance
from nas_distill.runs.records import TrialRecord
from nas_distill.study.observer import Observer
from nas_distill.study.signals import teacher_signal
from nas_distill.study.stored import StoredRun
from nas_distill.study.student import Student
from nas_distill.utils.checkpoints import json_digest
from nas_distill.utils.errors import ConfigError, RunError
from nas_distill.utils.files import disk_errors
from nas_distill.utils.modules import resolve_device
from nas_distill.utils.seeds import derive


def distill_mutually(
    run: StoredRun, trials: Sequence[TrialRecord], *, epochs: float | None, observer: Observer, **changes: Any
) -> list[Student]:
    """Distil trials that teach each other, in this process; see ``Run.distill_mutually``."""
    numbers = [trial.number for trial in trials]
    if len(set(numbers)) < 2 or len(set(numbers)) != len(numbers):
        raise RunError(f"Mutual learning needs at least two different trials, not {numbers}.")
    training = run.final_training(epochs, changes, source="distill_mutually(...)")
    label = f"mutual-{json_digest([sorted(numbers), training.model_dump(mode='json')], 8)}"
    problem = run.problem
    temperature = problem.terms(training).temperature
    if temperature is None:
        raise ConfigError(
            f"distill_mutually(...): the loss has no term '{problem.task.answers_loss}', by which students "
            "teach each other."
        )
    with disk_errors(run.folder.path):
        teacher = teacher_signal(problem, run.folder, observer, training)
        signals = [MutualSignal(teacher, temperature, problem.data.task) for _ in trials]
        builder, seed = problem.student_builder(run.folder), derive(run.config.seed, "final")
        distillers = []
        for trial, signal in zip(trials, signals):
            distillers.append(
                Distiller(
                    builder.build_student(trial.architecture, seed),
                    problem.data,
                    training,
                    signal=signal,
                    seed=seed,
                    device=resolve_device(run.config.device),
                    paths=problem.paths,
                )
            )
        keys = [f"{trial.key}-{label}" for trial in trials]
        checkpoints = [run.folder.checkpoint(key) for key in keys]
        found = [distiller.load(folder) for distiller, folder in zip(distillers, checkpoints)]
        if any(found) and len({distiller.step for distiller in distillers}) > 1:
            raise RunError(
                f"The checkpoints of {', '.join(keys)} are of different steps, since their process died between them; "
                "delete them to start again."
            )
        connect_peers(distillers, signals)
        first = distillers[0]
        observer.phase(f"mutual learning of {len(trials)} trials")
        while first.step < first.total_steps:
            advance_mutual(distillers, first.epoch_end)
            for distiller, folder in zip(distillers, checkpoints):
                distiller.save(folder)
            reached = " ".join(f"{distiller.quality():.2%}" for distiller in distillers)
            observer.step(first.epoch, first.total_epochs, f"validation {reached}")
        for trial, distiller, key in zip(trials, distillers, keys):
            write_student(
                run.folder.student(key),
                distiller,
                trial.architecture,
                problem.space,
                quality=distiller.quality(),
                provenance=Provenance(
                    kind="mutual",
                    key=key,
                    trial=trial.key,
                    teacher=problem.teacher.name,
                    students=tuple(other for other in keys if other != key),
                    recipe=recipe_of(training, run.config.seed),
                ),
                seed=run.config.seed,
            )
    for folder in checkpoints:
        shutil.rmtree(folder, ignore_errors=True)
    return [Student(run, trial, key) for trial, key in zip(trials, keys)]
