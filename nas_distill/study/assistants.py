"""Teacher assistants of a trial: larger members of the front, or its own student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from nas_distill.export.provenance import StudentKind, read_provenance
from nas_distill.export.student import SPEC, load_spec
from nas_distill.runs.pareto import front_records
from nas_distill.runs.records import TrialRecord
from nas_distill.study.observer import Observer
from nas_distill.study.stored import StoredRun
from nas_distill.study.student import Student
from nas_distill.teacher import Teacher, freeze
from nas_distill.utils.errors import ExportError, RunError

Via = Literal["front", "self"]
STEP = 2.0


class Distillable(Protocol):
    """The part of a trial that its assistants depend on."""

    run: StoredRun
    record: TrialRecord

    def other(self, record: TrialRecord) -> Distillable:
        """Return another trial of the run."""
        ...

    def students(self, *kinds: StudentKind) -> list[Student]:
        """Return its finished students of the given kinds, the best first."""
        ...

    def student(self) -> Student:
        """Return its best student."""
        ...

    def distill(self, *, epochs: float | None = None, via: Via | None = None, observer: Observer | None) -> Student:
        """Distil it in full."""
        ...


@dataclass(frozen=True)
class Assistant:
    """A student of the run that teaches another one.

    ``name`` is its part of the key of the student that it teaches; ``kind`` is that student's kind.
    """

    student: Student
    name: str
    kind: StudentKind

    def teacher(self) -> Teacher:
        """Return it as a frozen teacher."""
        return freeze(self.student.module, self.student.run.problem.data, self.student.key)


def find_assistant(trial: Distillable, via: Via, epochs: float | None, observer: Observer) -> Assistant:
    """Return the assistant that teaches ``trial``.

    ``front``: teacher assistants (Mirzadeh et al., 2020, arXiv:1902.03393). The next larger member of the front teaches
    the trial, and is taught by the next larger one itself, up to the largest, which the teacher teaches. Each step at
    least doubles the first cost objective. Members that were distilled in full already are not distilled again.
    ``self``: born-again networks (Furlanello et al., 2018, arXiv:1805.04770): the trial's best student so far.

    Raises:
        RunError: no member of the front is larger, or the trial has no student that could teach.
    """
    if via == "self":
        student = trial.student()
        return Assistant(student, f"self-{student.key.removeprefix(trial.record.key).strip('-') or 'first'}", "reborn")
    larger = next_larger(trial)
    if larger is None:
        raise RunError(
            f"{trial.record.title.capitalize()} of {trial.run.folder.path} has no assistant: no member of the front "
            f"costs at least {STEP:g} times as much. Distil it from the teacher, without 'via'."
        )
    student = _distilled(trial.other(larger), epochs, observer)
    return Assistant(student, f"front-{larger.number}", "assisted")


def next_larger(trial: Distillable) -> TrialRecord | None:
    """Return the cheapest member of the front that costs at least ``STEP`` times as much as the trial."""
    names = trial.run.config.search.objectives
    least = STEP * trial.record.costs[names[0]]
    larger = [record for record in front_records(trial.run.records, names) if record.costs[names[0]] >= least]
    return min(larger, key=lambda record: record.costs[names[0]], default=None)


def _distilled(trial: Distillable, epochs: float | None, observer: Observer) -> Student:
    """Return a member of the front distilled from its own assistant, or from the teacher if it is the largest."""
    larger = next_larger(trial)
    for student in trial.students("final" if larger is None else "assisted"):
        if larger is None or _taught_by(student, larger):
            return student
    return trial.distill(epochs=epochs, via=None if larger is None else "front", observer=observer)


def _taught_by(student: Student, record: TrialRecord) -> bool:
    """Return True if a student of the trial of ``record`` taught it."""
    folders = (student.run.folder.student(key) for key in student.provenance.students)
    try:
        return any(read_provenance(load_spec(folder), folder / SPEC).trial == record.key for folder in folders)
    except ExportError:  # its assistant was deleted
        return False
