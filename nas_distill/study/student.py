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
from nas_distill.reports import formatting
from nas_distill.runs.records import TrialRecord
from nas_distill.study.finish import export_loaded, export_student, read_student
from nas_distill.study.observer import Observer, default_observer
from nas_distill.study.stored import StoredRun
from nas_distill.study.updating import Update, update_student
from nas_distill.tasks import Evaluation, find_task
from nas_distill.utils.errors import ConfigError, ExportError
from nas_distill.utils.files import atomic_path, disk_errors
from nas_distill.utils.modules import quiet

if TYPE_CHECKING:
    from torch import nn


class Student:
    """A trained student, stored in a folder."""

    def __init__(self, run: StoredRun, record: TrialRecord, key: str) -> None:
        """Refer to the student ``key`` of ``run``; ``record`` is of its trial."""
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
        """Its training, data, and the split of its quality.

        Raises:
            ExportError: its folder has no readable provenance.
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
        """Continue its training on other data, and return the result as a further student.

        - Updated without forgetting (the default): this student teaches the new one on the new samples with weight
          ``keep`` (learning without forgetting; Li and Hoiem, 2016, arXiv:1606.09282).
        - Fine-tuned: ``keep=0``, on labels only.
        - Personalised: ``labels=False, keep=0, teacher=True``: by the run's teacher on local samples, whose labels are
          not used.

        A checkpoint is saved per epoch; the same call with the same data resumes from it.

        Args:
            data: of the same shape, classes and normalisation; quality is measured on its validation split.
            epochs: length of the training.
            keep: weight of this student's answers, at temperature 2.
            labels: train on labels, with weight 1.
            teacher: distil from the run's teacher too.
            observer: gets progress per epoch; it is shown here unless given.
            quiet: show nothing.
            changes: other settings of a training, e.g. ``optimizer={"lr": 0.001}``.

        Raises:
            ConfigError: the data do not fit the student, a setting is invalid, or all sources of the loss are off.
            TrainingError: the loss became NaN or infinite.
        """
        settings = Update.of(epochs=epochs, keep=keep, labels=labels, teacher=teacher, changes=changes, task=data.task)
        with default_observer(observer, quiet=quiet) as active:
            return Student(self.run, self.record, update_student(self, data, settings, active))

    def load(self) -> nn.Module:
        """Return a new copy of the network, in eval mode."""
        run = self.run
        problem = run.problem_if_given()
        if problem is not None:
            return read_student(problem, run.folder, self.key)
        return load_student(self.folder, paths=run.paths, trust=run.trusted)

    def evaluate(self, split: str | None = None) -> Evaluation:
        """Return accuracy, NLL, ECE, agreement with the teacher and share of its accuracy retained.

        For several labels or targets the result is a MultilabelEvaluation or RegressionEvaluation. ``split``: ``test``
        if the data has one, else ``val``, unless given.

        Raises:
            ConfigError: the data has no such split.
        """
        data, teacher = self.run.problem.data, self.run.problem.teacher
        name = split or data.splits[-1]
        if name not in data.splits:
            raise ConfigError(f"data '{data.name}' has no split '{name}'; known: {', '.join(data.splits)}.")
        student, wanted = (predict_logits(module, data.inputs(name)) for module in (self.module, teacher.module))
        return find_task(data.task).evaluate(student, data.labels(name), wanted)

    def export(self, path: str | Path | None = None, *, runtime: str | None = None) -> dict[str, Any]:
        """Export for a runtime, compare the file with PyTorch on validation data, time it, and return the figures.

        Without the run's data (where they came from Python and are not given now), the export of the search is copied;
        for another runtime or student, parity is checked on random samples.

        ``path``: in the student's folder unless given. ``runtime``: the run's unless given. ``predicted_ms`` of the
        result is the predicted latency of the search, None where it did not use latency.

        Raises:
            ExportError: it cannot be exported, or the outputs of the file differ from the network's.
        """
        problem, run = self.run.problem_if_given(), self.run
        chosen = run.runtime if runtime is None else find_runtime(runtime, where="runtime", paths=run.paths)
        target = self.folder / chosen.file_name if path is None else Path(path)
        with disk_errors(target):
            if problem is not None:
                made = export_student(problem, self.module, self.record.architecture.hash, target, chosen)
                result = made.model_dump(mode="json")
            else:
                result = self._export_without_data(target, chosen)
        return {"path": str(target), **result, "predicted_ms": self.record.costs.get(LATENCY)}

    def _export_without_data(self, target: Path, runtime: Runtime) -> dict[str, Any]:
        """Export without the run's data; an export of the search is copied with its recorded figures."""
        run, made = self.run, self.folder / runtime.file_name
        exports = run.metadata.exports
        known = None if exports is None else exports.students.get(self.key)
        if known is not None and known.runtime == runtime.title and made.exists():
            if target != made:
                with atomic_path(target) as temporary:
                    shutil.copyfile(made, temporary)
            return known.model_dump(mode="json")
        with quiet():  # torch warns that a graph cannot be trained, which is not needed here
            module = self.module
        made_now = export_loaded(module, load_spec(self.folder), run.config, target, task=run.task, runtime=runtime)
        return {**made_now.model_dump(mode="json"), "samples": "random"}

    def __repr__(self) -> str:
        try:
            provenance = self.provenance
        except ExportError:
            return f"Student({str(self.folder)!r})"
        quality = f"{formatting.percent(provenance.quality)} {provenance.measure} on {provenance.split} data"
        source = f" of {provenance.data_name}" if provenance.data_name else ""
        return f"Student({str(self.folder)!r}, {provenance.kind}, {quality}{source})"
