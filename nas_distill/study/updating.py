"""Updates of a finished student on other data: without forgetting, fine-tuned or personalised."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from nas_distill.config import TrainingConfig, parse
from nas_distill.data import Dataset
from nas_distill.distill import Distiller
from nas_distill.engine.evaluator import write_student
from nas_distill.export.provenance import Provenance
from nas_distill.runs.records import TrialRecord
from nas_distill.study.observer import Observer
from nas_distill.study.stored import StoredRun
from nas_distill.tasks import find_task
from nas_distill.teacher import LiveSignal, TeacherSignal, freeze
from nas_distill.teacher.signal import CombinedSignal
from nas_distill.utils.checkpoints import json_digest
from nas_distill.utils.errors import ConfigError
from nas_distill.utils.files import disk_errors
from nas_distill.utils.modules import resolve_device
from nas_distill.utils.seeds import derive

TEMPERATURE = 2.0


class Updatable(Protocol):
    """The part of a finished student that its update depends on."""

    key: str
    run: StoredRun
    record: TrialRecord

    @property
    def provenance(self) -> Provenance:
        """Its training."""
        ...

    def load(self) -> nn.Module:
        """Return the network, in eval mode."""
        ...


@dataclass(frozen=True)
class Update:
    """Settings of an update; see ``Student.update``."""

    keep: float
    labels: bool
    teacher: bool
    training: TrainingConfig

    @classmethod
    def of(
        cls,
        *,
        epochs: float,
        keep: float,
        labels: bool,
        teacher: bool,
        changes: dict[str, Any],
        task: str = "classification",
    ) -> Update:
        """Check and return the settings.

        Raises:
            ConfigError: a setting is invalid, or all sources of the loss are off.
        """
        if keep < 0:
            raise ConfigError(f"update(...): 'keep' is {keep:g}; a weight is at least 0.")
        if not labels and not teacher and not keep:
            raise ConfigError(
                "update(...): without labels, teacher and 'keep' there is nothing to learn from; switch one of them on."
            )
        loss: list[dict[str, Any]] = [{"name": find_task(task).labels_loss, "weight": 1.0}] if labels else []
        if keep or teacher:
            temperature = {"temperature": TEMPERATURE} if find_task(task).has_temperature else {}
            loss.append({"name": find_task(task).answers_loss, "weight": keep or 1.0, **temperature})
        # Trained weights need smaller steps than random ones.
        settings = {"epochs": epochs, "loss": loss, "optimizer": {"lr": 0.01}, **changes}
        return cls(keep, labels, teacher, parse(TrainingConfig, settings, source="update(...)"))

    @property
    def recipe(self) -> str:
        """Digest of the settings."""
        return json_digest([self.keep, self.labels, self.teacher, self.training.model_dump(mode="json")], 8)

    def name(self, data: Dataset) -> str:
        """Return the label that distinguishes this update from others of the same student."""
        parts = [self.keep, self.labels, self.teacher, self.training.model_dump(mode="json"), data.fingerprint]
        return f"updated-{json_digest(parts, 8)}"


def update_student(student: Updatable, data: Dataset, update: Update, observer: Observer) -> str:
    """Continue a student's training in this process, write the result as a new student, and return its key.

    Raises:
        ConfigError: the data do not fit the student.
        TrainingError: the loss became NaN or infinite.
    """
    run = student.run
    _check(student, data)
    key = f"{student.key}-{update.name(data)}"
    checkpoint = run.folder.checkpoint(key)
    config = run.config
    with disk_errors(run.folder.path):
        distiller = Distiller(
            student.load(),
            data,
            update.training,
            signal=_signal(student, data, update),
            seed=derive(config.seed, "update"),
            device=resolve_device(config.device),
            paths=run.problem.paths,
        )
        observer.phase(f"updating {student.key}")
        for quality in distiller.by_epoch(checkpoint):
            observer.step(distiller.epoch, distiller.total_epochs, f"validation {quality:.2%}")
        write_student(
            run.folder.student(key),
            distiller,
            student.record.architecture,
            run.problem.space,
            quality=distiller.quality(),
            provenance=Provenance(
                kind="updated",
                key=key,
                trial=student.provenance.trial,
                teacher=run.problem.teacher.name if update.teacher else None,
                students=(student.key,),
                recipe=update.recipe,
            ),
            seed=config.seed,
        )
    shutil.rmtree(checkpoint, ignore_errors=True)
    return key


def _signal(student: Updatable, data: Dataset, update: Update) -> TeacherSignal | None:
    signals: list[TeacherSignal] = []
    if update.teacher:
        problem = student.run.problem
        signals.append(LiveSignal(freeze(problem.teacher.module, data, problem.teacher.name)))
    if update.keep:
        signals.append(LiveSignal(freeze(student.load(), data, f"{student.key} as it was")))
    if len(signals) < 2:
        return signals[0] if signals else None
    return CombinedSignal(signals, data, by="mean", temperature=TEMPERATURE)


def _check(student: Updatable, data: Dataset) -> None:
    known = student.run.problem.data
    if data.task != known.task:
        raise ConfigError(
            f"Student {student.key} was trained for {known.task}, and data '{data.name}' is of {data.task}."
        )
    if data.input_shape != known.input_shape or data.num_classes != known.num_classes:
        kind = find_task(data.task)
        raise ConfigError(
            f"Student {student.key} takes samples of shape {known.input_shape} and tells {known.num_classes} "
            f"{kind.outputs}{' apart' if kind.exclusive else ''}; data '{data.name}' has shape {data.input_shape} and "
            f"{data.num_classes} {kind.outputs}."
        )
    if data.normalisation() != known.normalisation():
        raise ConfigError(
            f"Data '{data.name}' is normalised otherwise than what student {student.key} was trained on: give it the "
            f"same mean and std, {known.normalisation()}."
        )
