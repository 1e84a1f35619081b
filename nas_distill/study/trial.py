"""Trials of a run: their networks and students."""

from __future__ import annotations

import html
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nas_distill.engine.finalists import baseline_key, recipe_of
from nas_distill.engine.work import Work, epoch_rungs, last_rung
from nas_distill.export.provenance import DISTILLED, Provenance, StudentKind
from nas_distill.reports import formatting
from nas_distill.reports.tables import STATES
from nas_distill.runs.records import NO_TRIAL, TrialRecord
from nas_distill.study.assistants import Via, find_assistant
from nas_distill.study.observer import Observer, default_observer
from nas_distill.study.signals import teacher_signal
from nas_distill.study.stored import StoredRun
from nas_distill.study.student import Student
from nas_distill.tasks import find_task, read_evaluation
from nas_distill.utils.checkpoints import json_digest
from nas_distill.utils.errors import ExportError, RunError
from nas_distill.utils.files import disk_errors
from nas_distill.utils.seeds import derive

if TYPE_CHECKING:
    from torch import nn


class Trial:
    """A trial of a run."""

    def __init__(self, run: StoredRun, record: TrialRecord) -> None:
        self.run = run
        self.record = record

    @property
    def architecture(self) -> dict[str, Any]:
        """Its parameters, as nested values."""
        return self.record.architecture.to_dict()

    @property
    def costs(self) -> dict[str, float]:
        """Its costs."""
        return self.record.costs

    def build(self) -> nn.Module:
        """Return its network with random weights, also where students start from the teacher's."""
        return self.run.problem.build(self.record.architecture)

    def other(self, record: TrialRecord) -> Trial:
        """Return another trial of the same run."""
        return Trial(self.run, record)

    def students(self, *kinds: StudentKind) -> list[Student]:
        """Return its finished students of the given kinds, the best validation quality first.

        The default is all full distillations, during the search and after it, whose qualities are comparable: taught,
        and validated on the run's own data. Training on labels only (``"labels"``) and updates on other data
        (``"updated"``) are listed only by their kinds. See ``Student.provenance``.
        """
        unfinished = self._unfinished()
        data = self.run.metadata.data
        found: list[tuple[float, Student]] = []
        for folder in sorted(self.run.folder.students.glob("*/")):
            student = Student(self.run, self.record, folder.name)
            try:
                provenance = student.provenance
            except ExportError:  # it is being written, or its process died while writing
                continue
            if provenance.trial != self.record.key or provenance.kind not in (kinds or DISTILLED):
                continue
            if not kinds and data is not None and provenance.data not in (None, data.fingerprint):
                continue
            if provenance.key not in unfinished:
                found.append((-math.inf if provenance.quality is None else provenance.quality, student))
        return [student for _, student in sorted(found, key=lambda entry: -entry[0])]

    def _unfinished(self) -> set[str]:
        """Return the keys of trainings of the search that may have a student but are not recorded as complete."""
        entries = self.run.metadata.finalists.values()
        done = {entry.key for entry in entries if entry.quality is not None}
        return {self.record.key, *(entry.key for entry in entries)} - done

    def student(self) -> Student:
        """Return its student of the best validation quality.

        Raises:
            RunError: it was not distilled in full.
        """
        students = self.students()
        if not students:
            raise RunError(
                f"{self.record.title.capitalize()} of {self.run.folder.path} was not distilled in full; "
                f"run 'nas-distill distill {self.run.folder.path} {self.record.number}'."
            )
        return students[0]

    def distill(
        self,
        *,
        epochs: float | None = None,
        taught: bool = True,
        seed: int | None = None,
        via: Via | None = None,
        observer: Observer | None = None,
        quiet: bool = False,
        **changes: Any,
    ) -> Student:
        """Distil it in full, in this process, and return the student.

        A checkpoint is saved per epoch; the same call resumes from it.

        Args:
            epochs: length, the run's own ``final.epochs`` unless given.
            taught: False trains on labels only.
            seed: the run's unless given.
            via: an assistant instead of the teacher: ``front``, the next larger member of the front (distilled first if
                necessary), or ``self``, its own best student; see ``find_assistant``.
            observer: gets progress per epoch; it is shown here unless given.
            quiet: show nothing.
            changes: other settings of the ``final`` section, e.g. ``batch_size=256``.

        Raises:
            TrainingError: the loss became NaN or infinite.
            ConfigError: a setting is invalid.
            RunError: no such assistant exists.
        """
        with default_observer(observer, quiet=quiet) as active:
            return self._distill(active, epochs, taught, seed, via, changes)

    def _distill(
        self,
        observer: Observer,
        epochs: float | None,
        taught: bool,
        seed: int | None,
        via: Via | None,
        changes: Mapping[str, Any],
    ) -> Student:
        run = self.run
        assistant = None if via is None else find_assistant(self, via, epochs, observer)
        training = run.final_training(epochs, changes, source="distill(...)")
        seed = run.config.seed if seed is None else seed
        name = f"{self.record.key}-{training.epochs:g}-epochs{'' if taught else '-labels'}" + (
            f"-seed-{seed}" if seed != run.config.seed else ""
        )
        if assistant is not None:
            name += f"-{assistant.name}"
        if changes:
            name += f"-{json_digest(training.model_dump(mode='json'), 6)}"
        provenance = Provenance(
            kind=("final" if taught else "labels") if assistant is None else assistant.kind,
            key=name,
            trial=self.record.key,
            teacher=run.problem.teacher.name if taught and assistant is None else None,
            students=() if assistant is None else (assistant.student.key,),
            recipe=recipe_of(training, seed),
        )
        work = Work(
            key=name,
            architecture=self.record.architecture,
            training=training,
            rungs=epoch_rungs(training.epochs),
            seed=derive(seed, "final"),
            checkpoint=run.folder.checkpoint(name),
            teacher=taught,
            output=run.folder.student(name),
            provenance=provenance,
        )
        problem = run.problem
        if assistant is not None:
            problem = replace(problem, teacher=assistant.teacher(), others=())
        with disk_errors(run.folder.path):
            signal = teacher_signal(problem, run.folder, observer, training)
            observer.phase(f"distilling {self.record.title}")
            student = run.problem.evaluator(signal, run.folder).start(work)
            try:
                while True:
                    result = student.next_rung()
                    observer.step(result.rung + 1, len(work.rungs), f"validation {result.quality:.2%}")
                    if result.rung == last_rung(work):
                        break
            finally:
                student.close()
        shutil.rmtree(work.checkpoint, ignore_errors=True)
        return Student(self.run, self.record, name)

    def to_dict(self) -> dict[str, Any]:
        """Return its record as plain values."""
        record = self.record
        return {
            "trial": None if record.number == NO_TRIAL else record.number,
            "state": record.state,
            "quality": record.quality,
            "costs": record.costs,
            "architecture": self.architecture,
            "hash": record.architecture.hash,
            "rungs": {str(rung): quality for rung, quality in record.rungs.items()},
            "stop": record.stop,
            "violations": record.violations,
            "cause": record.cause,
            "seconds": record.seconds,
            "duplicate_of": record.duplicate_of,
            "retry_of": record.retry_of,
        }

    def worth(self) -> dict[str, float]:
        """Return its known qualities by their description.

        These are quality after the full distillation on test data (only of the search's student and of the uniform
        network) and on validation data, after the short distillation, and after the full training on labels only.
        """
        record, metadata = self.record, self.run.metadata
        measure = find_task(self.run.task).quality_name
        found: dict[str, float] = {}
        evaluation = metadata.evaluation
        if evaluation is not None and evaluation.split == "test" and record.key in evaluation.students:
            tested = read_evaluation(evaluation.students[record.key], self.run.task)
            found[f"test {measure} after full distillation"] = tested.quality
        keys = (record.key, baseline_key(record.key))
        entries = [entry for entry in metadata.finalists.values() if entry.key in keys]
        for entry in entries:
            if entry.taught and entry.quality is not None:
                found[f"validation {measure} after full distillation"] = entry.quality
        if record.quality is not None:
            when = "after short distillation" if record.state == "complete" else "where it ended"
            found[f"validation {measure} {when}"] = record.quality
        for entry in entries:
            if not entry.taught and entry.quality is not None:
                found[f"validation {measure} after full training on labels only"] = entry.quality
        return found

    def _repr_html_(self) -> str:
        worth = {name: formatting.percent(quality) for name, quality in self.worth().items()}
        costs = {name: formatting.cost(name, value) for name, value in self.record.costs.items()}
        rows = {"state": STATES[self.record.state], **worth, **costs, "architecture": str(self.architecture)}
        cells = (f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows.items())
        return f"<table><caption>{self.record.title.capitalize()}</caption>{''.join(cells)}</table>"

    def __repr__(self) -> str:
        measure = f" validation {find_task(self.run.task).quality_name}"
        qualities = [f"{formatting.percent(quality)} {name}" for name, quality in self.worth().items()]
        first = next((index for index, text in enumerate(qualities) if measure in text), 0)
        qualities[first + 1 :] = [text.replace(measure, "") for text in qualities[first + 1 :]]
        costs = formatting.costs(self.record.costs, self.run.config.search.objectives)
        parts = [STATES[self.record.state], *qualities, *([costs] if costs else [])]
        name = self.record.title.removeprefix("trial ")
        return f"Trial({name}: {', '.join(parts)})"
