"""Trials distilled side by side, each taught by the teacher and by the others."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas_distill.api.disk import disk_errors
from nas_distill.api.signals import teacher_signal, with_loss
from nas_distill.api.student import Student
from nas_distill.common.device import resolve_device
from nas_distill.common.errors import ConfigError, RunError
from nas_distill.common.seeds import derive, seeded_torch
from nas_distill.config import FinalConfig, parse
from nas_distill.distill import Distiller
from nas_distill.distill.peers import PeerSignal, advance_together, introduce
from nas_distill.export.student import save_student

if TYPE_CHECKING:
    from nas_distill.api.observer import Observer
    from nas_distill.api.run import Run
    from nas_distill.api.trial import Trial


def distill_together(
    run: Run, trials: Sequence[Trial], *, epochs: float | None, observer: Observer, **changes: Any
) -> list[Student]:
    """Distil trials side by side in this process; see ``Run.distill_together``."""
    numbers = [trial.record.number for trial in trials]
    if len(set(numbers)) < 2 or len(set(numbers)) != len(numbers):
        raise RunError(f"Mutual learning takes at least two different trials, not {numbers}.")
    settings = {**run.config.final.model_dump(), **({} if epochs is None else {"epochs": epochs}), **changes}
    training = parse(FinalConfig, settings, source="distill_together(...)")
    told = json.dumps([sorted(numbers), training.model_dump(mode="json")], sort_keys=True)
    mark = f"together-{hashlib.sha256(told.encode()).hexdigest()[:8]}"
    temperature = next((term.options.get("temperature", 4.0) for term in training.loss if term.name == "kd"), None)
    if temperature is None:
        raise ConfigError("distill_together(...): the loss has no term 'kd', by which peers teach each other.")
    inputs = with_loss(run.inputs, training)
    data, space = inputs.data, inputs.space
    with disk_errors(run.folder.path):
        teacher = teacher_signal(inputs, run.folder, observer)
        signals = [PeerSignal(teacher, float(temperature)) for _ in trials]
        distillers = []
        for trial, signal in zip(trials, signals):
            with seeded_torch(derive(run.config.seed, "final"), "init"):
                model = space.build(
                    trial.record.architecture, input_shape=data.input_shape, num_classes=data.num_classes
                )
            distillers.append(
                Distiller(
                    model,
                    data,
                    training,
                    signal=signal,
                    seed=derive(run.config.seed, "final"),
                    device=resolve_device(run.config.device),
                    paths=inputs.paths,
                )
            )
        keys = [f"{trial.record.key}-{mark}" for trial in trials]
        checkpoints = [run.folder.checkpoint(key) for key in keys]
        found = [distiller.load(folder) for distiller, folder in zip(distillers, checkpoints)]
        if any(found) and len({distiller.step for distiller in distillers}) > 1:
            raise RunError(
                f"The checkpoints of {', '.join(keys)} are of different steps, as their process died between them; "
                "delete them to start anew."
            )
        introduce(distillers, signals)
        first = distillers[0]
        total = -(-first.total_steps // first.steps_per_epoch)
        observer.phase(f"distilling {len(trials)} trials together")
        while first.step < first.total_steps:
            target = (first.step // first.steps_per_epoch + 1) * first.steps_per_epoch
            advance_together(distillers, min(target, first.total_steps))
            for distiller, folder in zip(distillers, checkpoints):
                distiller.save(folder)
            reached = " ".join(f"{distiller.quality():.2%}" for distiller in distillers)
            observer.step(-(-first.step // first.steps_per_epoch), total, f"validation {reached}")
        for trial, distiller, key in zip(trials, distillers, keys):
            save_student(
                run.folder.student(key),
                distiller.student(),
                trial.record.architecture,
                space,
                input_shape=data.input_shape,
                num_classes=data.num_classes,
                normalisation=data.normalisation(),
                class_names=data.classes,
                metadata={
                    "key": key,
                    "validation_accuracy": distiller.quality(),
                    "taught": True,
                    "epochs": training.epochs,
                    "seconds": distiller.seconds,
                    "seed": run.config.seed,
                    "together_with": [other for other in numbers if other != trial.record.number],
                },
            )
    for folder in checkpoints:
        shutil.rmtree(folder, ignore_errors=True)
    return [Student(trial, key) for trial, key in zip(trials, keys)]
