"""Trained students: evaluation, export and further training."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_distill.costs.latency import LATENCY
from nas_distill.costs.runtimes import Runtime, find_runtime
from nas_distill.data import Dataset
from nas_distill.evaluate.predict import predict_logits
from nas_distill.export.provenance import Provenance, read_provenance
from nas_distill.export.student import SPEC, load_spec, load_student
from nas_distill.reports import formatting as words
from nas_distill.runs.records import TrialRecord
from nas_distill.study.finish import export_loaded, export_student, read_student
from nas_distill.study.observer import Observer, watched
from nas_distill.study.stored import StoredRun
from nas_distill.study.updating import Update, update_student
from nas_distill.tasks import Evaluation, find_task
from nas_distill.utils.errors import ConfigError, ExportError
from nas_distill.utils.files import atomic_path, disk_errors
from nas_distill.utils.modules import quiet

if TYPE_CHECKING:
    from torch import nn


class Student:
    """A trained student in a folder."""

    def __init__(self, run: StoredRun, record: TrialRecord, key: str) -> None:
        """Take a student of ``run`` by its ``key``; ``record`` is that of its trial."""
        self.run = run
        self.record = record
        self.key = key
        self.folder: Path = run.folder.student(key)

    @cached_property
    def module(self) -> nn.Module:
        """The network, in eval mode."""
        return self.load()

    @cached_property
    def provenance(self) -> Provenance:
        """How it was trained, on which data, and what its quality was measured on.

        Raises:
            ExportError: its folder does not tell.
        """
        return read_provenance(load_spec(self.folder), self.folder / SPEC)

    def update(
        self,
        data: Dataset,
        *,
        epochs: float = 5.0,
        keep: float = 1.0,
        labels: bool = True,
        teacher: bool = False,
        observer: Observer | None = None,
        quiet: bool = False,
        **changes: Any,
    ) -> Student:
        """Train it on, on other data, and return the result, a student beside this one.

        - Updated without forgetting (the default): its former self teaches it on the new samples with weight ``keep``
          (learning without forgetting; Li and Hoiem, 2016, arXiv:1606.09282).
        - Fine-tuned: ``keep=0``, on the labels alone.
        - Personalised: ``labels=False, keep=0, teacher=True``: by what the run's teacher says of local samples, whose
          labels are not looked at.

        It saves itself after each epoch and goes on from there when called again with the same settings and data.

        Args:
            data: of the same shape, classes and normalisation; its validation split is what quality is read on.
            epochs: length.
            keep: weight of its former self's answers, at temperature 2.
            labels: whether the labels teach, with weight 1.
            teacher: whether the run's teacher teaches too.
            observer: is told of each epoch; it is shown here unless given.
            quiet: show nothing.
            changes: other settings of a training, e.g. ``optimizer={"lr": 0.001}``.

        Raises:
            ConfigError: the data do not fit the student, a setting is wrong, or nothing is left to learn from.
            TrainingError: the loss became NaN or infinite.
        """
        settings = Update.of(epochs=epochs, keep=keep, labels=labels, teacher=teacher, changes=changes, task=data.task)
        with watched(observer, quiet=quiet) as told:
            return Student(self.run, self.record, update_student(self, data, settings, told))

    def load(self) -> nn.Module:
        """Return the network anew, in eval mode."""
        run = self.run
        problem = run.problem_if_given()
        if problem is not None:
            return read_student(problem, run.folder, self.key)
        return load_student(self.folder, paths=run.paths, trust=run.trusted)

    def evaluate(self, split: str | None = None) -> Evaluation:
        """Return accuracy, NLL, ECE, agreement with the teacher and share of its accuracy retained.

        Of several labels or of targets, what stands in their place: MultilabelEvaluation or RegressionEvaluation.
        ``split``: ``test`` where there is one, else ``val``.
        """
        data, teacher = self.run.problem.data, self.run.problem.teacher
        name = split or data.splits[-1]
        if name not in data.splits:
            raise ConfigError(f"data '{data.name}' has no split '{name}'; known: {', '.join(data.splits)}.")
        student, wanted = (predict_logits(module, data.inputs(name)) for module in (self.module, teacher.module))
        return find_task(data.task).evaluate(student, data.labels(name), wanted)

    def export(self, path: str | Path | None = None, *, runtime: str | None = None) -> dict[str, Any]:
        """Export for a runtime, compare the file with PyTorch on validation data, time it; return what was found.

        Where the run's data came from Python and are not given, a student that the search exported is copied, and
        another one is compared on random samples.

        ``path``: in the student's folder unless given. ``runtime``: the run's unless given. ``predicted_ms`` of what is
        returned is the latency that the search reckoned with, None where it left latency out.

        Raises:
            ExportError: it cannot be exported, or the file does not compute what the network computes.
        """
        problem, run = self.run.problem_if_given(), self.run
        chosen = run.runtime if runtime is None else find_runtime(runtime, where="runtime", paths=run.paths)
        target = self.folder / chosen.file_name if path is None else Path(path)
        with disk_errors(target):
            if problem is not None:
                made = export_student(problem, self.module, self.record.architecture.hash, target, chosen)
                result = made.model_dump(mode="json")
            else:
                result = self._export_alone(target, chosen)
        return {"path": str(target), **result, "predicted_ms": self.record.costs.get(LATENCY)}

    def _export_alone(self, target: Path, runtime: Runtime) -> dict[str, Any]:
        """Export it without the run's data: what the search has exported is copied with what was found then."""
        run, made = self.run, self.folder / runtime.file_name
        exports = run.metadata.exports
        known = None if exports is None else exports.students.get(self.key)
        if known is not None and known.runtime == runtime.title and made.exists():
            if target != made:
                with atomic_path(target) as temporary:
                    shutil.copyfile(made, temporary)
            return known.model_dump(mode="json")
        with quiet():  # torch warns that a graph cannot be trained, and it is not to be
            module = self.module
        made_now = export_loaded(module, load_spec(self.folder), run.config, target, task=run.task, runtime=runtime)
        return {**made_now.model_dump(mode="json"), "samples": "random"}

    def __repr__(self) -> str:
        try:
            told = self.provenance
        except ExportError:
            return f"Student({str(self.folder)!r})"
        quality = f"{words.percent(told.quality)} {told.measure} on {told.split} data"
        return (
            f"Student({str(self.folder)!r}, {told.kind}, {quality}{f' of {told.data_name}' if told.data_name else ''})"
        )
