"""A run as its user holds it: what was found, the best trial under any budget, students to train and export."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nas_distill.run.quiet  # noqa: F401  (first, since it imports Optuna without a warning in notebooks)
from nas_distill.api.assistants import Via, find_assistant
from nas_distill.api.costing import LATENCY
from nas_distill.api.disk import disk_errors
from nas_distill.api.finish import baseline_of, export_student, read_student
from nas_distill.api.inputs import Inputs, identity, resolve, search_paths
from nas_distill.api.observer import Observer, Silent
from nas_distill.api.reporting import card_facts, final_report, finalist_results
from nas_distill.api.signals import store_contents, store_root, teacher_signal, with_loss
from nas_distill.api.updating import Update, update_student
from nas_distill.common.errors import BudgetError, ConfigError, ExportError, RunError
from nas_distill.common.seeds import derive
from nas_distill.config import FinalConfig, SearchFile, load_search_file, parse
from nas_distill.cost.budget import Budget
from nas_distill.data import Dataset
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.engine.finalists import best_finalist, read_finalists
from nas_distill.engine.work import Work, last_rung
from nas_distill.evaluate.predict import predict_logits
from nas_distill.evaluate.report import Evaluation, evaluate_logits
from nas_distill.export.student import load_spec
from nas_distill.report.model import FinalistResult, FinalReport, ModelResult
from nas_distill.run import facts as names
from nas_distill.run.facts import Facts
from nas_distill.run.folder import RunFolder
from nas_distill.run.front import front_records
from nas_distill.run.journal import read_study
from nas_distill.run.records import TrialRecord, read_records, to_frame
from nas_distill.teacher import TeacherStore
from nas_distill.teacher.store import Verification

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

    from nas_distill.report.importance import ImportanceReport


class Run:
    """A run's folder, read from its journal alone; open one with ``nas_distill.open_run``.

    ``data``, ``teacher``, ``space`` and ``builder`` stand in for what the search was given from Python. What was read
    stays as it was; ``refresh()`` looks again.
    """

    def __init__(self, path: str | Path, *, inputs: Inputs | None = None, **given: Any) -> None:
        self.folder = RunFolder(path).require()
        self._inputs = inputs
        self._given = given
        self.refresh()

    def refresh(self) -> Run:
        """Read the journal again, and return self."""
        study = read_study(self.folder)
        self.records: list[TrialRecord] = read_records(study)
        self.facts = Facts(study.user_attrs)
        return self

    @property
    def config(self) -> SearchFile:
        """The search file as it was resolved."""
        if self._inputs is not None:
            return self._inputs.config
        if not self.folder.search_yaml.exists():
            raise RunError(f"{self.folder.path} holds no {self.folder.search_yaml.name}; a resumed search writes it.")
        return load_search_file(self.folder.search_yaml)

    @cached_property
    def inputs(self) -> Inputs:
        """Data, teacher and space of the run, loaded when first needed."""
        if self._inputs is not None:
            return self._inputs
        base = self.folder.path / self.facts.get(names.BASE, "..")
        inputs = resolve(self.config, (base.resolve(), *search_paths(None)), **self._given)
        known: Mapping[str, str] = self.facts.get(names.IDENTITY, {})
        for section, digest in identity(inputs).items():
            if section in ("data", "teacher") and known.get(section, digest) != digest:
                raise RunError(
                    f"{self.folder.path} was searched with another {section} than '{getattr(inputs, section).name}' "
                    "as it is now, so its figures do not hold for that one."
                )
        return inputs

    @property
    def budget(self) -> Budget:
        """The run's own budget, in plain numbers."""
        return Budget.parse(self.facts.get(names.BUDGET, {}))

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to resume."""
        return self.facts.finished

    def trials(self) -> pd.DataFrame:
        """Return one row a trial, over-budget, stopped and failed ones included."""
        return to_frame(self.records)

    def front(self, budget: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return the completed trials that no other beats, within ``budget`` (the run's own unless given)."""
        return to_frame(self.front_records(budget))

    def front_records(self, budget: Mapping[str, Any] | None = None) -> list[TrialRecord]:
        """Return the front's records, from cheap to dear."""
        limits = self.budget_of(budget)
        within = [record for record in self.records if record.state == "complete" and limits.fits(record.costs)]
        return front_records(within, self.config.search.costs)

    def best(self, budget: Mapping[str, Any] | None = None) -> Trial:
        """Return the best trial within ``budget`` (the run's own unless given); nothing is trained.

        It is the best finalist within it by full validation quality; without one, the best by short score.

        Raises:
            BudgetError: no trained trial is within it.
        """
        limits = self.budget_of(budget)
        finalists = [entry for entry in read_finalists(self.facts) if limits.fits(entry.costs)]
        winner = best_finalist(finalists)
        if winner is not None:
            return self.trial(winner.trial)
        front = self.front_records(budget)
        if not front:
            trained = [record.costs for record in self.records if record.state == "complete"]
            none = "no trial was trained to its end yet." if not trained else limits.infeasible(trained)
            raise BudgetError(f"Run {self.folder.path}: {none}")
        return Trial(self, max(front, key=lambda record: record.final_quality))

    def trial(self, number: int) -> Trial:
        """Return a trial by its number.

        Raises:
            RunError: there is no such trial.
        """
        for record in self.records:
            if record.number == number:
                return Trial(self, record)
        there = f"it has 0 to {len(self.records) - 1}" if self.records else "it has none yet"
        raise RunError(f"Run {self.folder.path} has no trial {number}; {there}.")

    def report(self) -> FinalReport:
        """Return the end of the search: student, teacher, baseline, what was saved, how far scores can be trusted.

        Raises:
            RunError: the run has no finished student yet.
        """
        return final_report(self.folder, self.facts, self.records)

    def finalists(self) -> tuple[FinalistResult, ...]:
        """Return the candidates that were distilled in full, the chosen one marked."""
        return finalist_results(self.facts)

    def status(self) -> dict[str, Any]:
        """Return where the run stands, in plain values; ``process`` is the one that is searching, on this machine."""
        states = Counter(record.state for record in self.records)
        front = self.front_records()
        best = max(front, key=lambda record: record.final_quality) if front else None
        process = self.folder.process
        state = "finished" if self.finished else "stopped" if process is None else "running"
        return {
            "run": str(self.folder.path),
            "state": state,
            "process": process,
            "requested": self.config.search.trials,
            "trained": sum(record.trained for record in self.records),
            **{state: states[state] for state in sorted(states)},
            "front": len(front),
            "best_trial": None if best is None else best.number,
            "best_quality": None if best is None else best.final_quality,
            "finalists": sum(entry.full is not None for entry in self.finalists()),
            "hours_trained": round(sum(record.seconds for record in self.records) / 3600, 3),
        }

    def verify_store(self, samples: int = 256) -> Verification:
        """Compare stored teacher logits with the live teacher's.

        Raises:
            TeacherError: there is no store, it is of something else, or an answer differs.
        """
        inputs = self.inputs
        store = TeacherStore.open(
            store_root(inputs, self.folder),
            inputs.teacher,
            inputs.data,
            contents=store_contents(with_loss(inputs, inputs.config.score)),
        )
        return store.verify(inputs.teacher, inputs.data, samples=samples)

    def plot(self, budget: Mapping[str, Any] | None = None) -> Figure:
        """Return the picture of the front under and over the budget."""
        from nas_distill.report.plots import front_figure

        return front_figure(
            self.records,
            costs=self.config.search.costs,
            limits=self.budget_of(budget).limits,
            teacher=self._teacher_point(),
            finalists=finalist_results(self.facts),
            baseline=self._baseline_point(),
        )

    def importance(self, cost: str | None = None) -> ImportanceReport:
        """Return which parameters quality depends on, and which beyond what they cost.

        Raises:
            RunError: too few trials reported at one rung.
        """
        from nas_distill.report.importance import parameter_importance

        return parameter_importance(self.records, cost or self.config.search.costs[0])

    def budget_of(self, budget: Mapping[str, Any] | None) -> Budget:
        """Return a budget as written in a search file in plain numbers; the run's own for None."""
        if budget is None:
            return self.budget
        return Budget.parse(budget, (self.facts.get(names.TEACHER) or {}).get("costs"))

    def _teacher_point(self) -> ModelResult | None:
        teacher = self.facts.get(names.TEACHER)
        if teacher is None:
            return None
        return ModelResult("teacher", validation=teacher["validation"], costs=teacher["costs"])

    def _baseline_point(self) -> ModelResult | None:
        finalists = read_finalists(self.facts)
        winner = best_finalist(finalists)
        entry = None if winner is None else baseline_of(winner, finalists)
        return None if entry is None else ModelResult("hard labels", validation=entry.quality, costs=entry.costs)

    def _repr_html_(self) -> str:
        return f"<b>Run {self.folder.path}</b>" + self.front().to_html(max_rows=20)

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"Run({str(self.folder.path)!r}, {len(self.records)} trials, {state})"


class Trial:
    """One trial of a run."""

    def __init__(self, run: Run, record: TrialRecord) -> None:
        self.run = run
        self.record = record

    @property
    def architecture(self) -> dict[str, Any]:
        """The nested values of its parameters."""
        return self.record.architecture.to_dict()

    @property
    def costs(self) -> dict[str, float]:
        """Its costs."""
        return self.record.costs

    def build(self) -> nn.Module:
        """Return its network with fresh weights."""
        inputs = self.run.inputs
        return inputs.space.build(
            self.record.architecture, input_shape=inputs.input_shape, num_classes=inputs.data.num_classes
        )

    def students(self) -> list[Student]:
        """Return the students that full distillations of it left, in the search and since; best validation first.

        Those trained on labels alone are not among them.
        """
        done = {entry.key for entry in read_finalists(self.run.facts) if entry.quality is not None}
        found = []
        for folder in sorted(self.run.folder.students.glob(f"{self.record.key}*")):
            in_search = folder.name == self.record.key
            if folder.name in done if in_search else folder.name.startswith(f"{self.record.key}-"):
                try:
                    spec = load_spec(folder)
                except ExportError:  # one that is being written, or was when its process died
                    continue
                if spec["metadata"].get("taught"):
                    found.append((spec["metadata"]["validation_accuracy"], Student(self, folder.name)))
        return [student for _, student in sorted(found, key=lambda entry: -entry[0])]

    def student(self) -> Student:
        """Return its student of the best validation accuracy.

        Raises:
            RunError: it was not distilled in full.
        """
        students = self.students()
        if not students:
            raise RunError(
                f"Trial {self.record.number} of {self.run.folder.path} was not distilled in full; "
                f"'nas-distill distill {self.run.folder.path} {self.record.number}' does it."
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
        **changes: Any,
    ) -> Student:
        """Distil it in full, in this process, and return the student.

        It saves itself after each epoch and goes on from there when called again with the same settings.

        Args:
            epochs: length, the run's own ``final.epochs`` unless given.
            taught: False trains on labels alone.
            seed: the run's unless given.
            via: who teaches it instead of the teacher: ``front``, the next larger member of the front (distilled first
                if need be), or ``self``, its own best student; see ``find_assistant``.
            observer: is told of each epoch.
            changes: other settings of the ``final`` section, e.g. ``batch_size=256``.

        Raises:
            TrainingError: the loss became NaN or infinite.
            ConfigError: a setting is wrong.
            RunError: nobody can teach it ``via`` that way.
        """
        run, observer = self.run, observer or Silent()
        assistant = None if via is None else find_assistant(self, via, epochs, observer)
        final = run.config.final.model_dump()
        training = parse(
            FinalConfig, {**final, **({} if epochs is None else {"epochs": epochs}), **changes}, source="distill(...)"
        )
        seed = run.config.seed if seed is None else seed
        name = f"{self.record.key}-{training.epochs:g}-epochs{'' if taught else '-labels'}" + (
            f"-seed-{seed}" if seed != run.config.seed else ""
        )
        if assistant is not None:
            name += f"-{assistant.name}"
        if changes:
            name += f"-{hashlib.sha256(json.dumps(changes, sort_keys=True, default=str).encode()).hexdigest()[:6]}"
        total = max(1, round(training.epochs))
        work = Work(
            key=name,
            architecture=self.record.architecture,
            training=training,
            rungs=tuple((epoch + 1) / total for epoch in range(total)),
            seed=derive(seed, "final"),
            checkpoint=run.folder.checkpoint(name),
            teacher=taught,
            output=run.folder.student(name),
        )
        inputs = with_loss(run.inputs, training)
        if assistant is not None:
            inputs = replace(inputs, teacher=assistant.teacher(), others=())
        with disk_errors(run.folder.path):
            signal = teacher_signal(inputs, run.folder, observer)
            observer.phase(f"distilling trial {self.record.number}")
            student = StudentEvaluator(inputs.data, inputs.space, signal, run.config.device, inputs.paths).start(work)
            try:
                while True:
                    result = student.next_rung()
                    observer.step(result.rung + 1, total, f"validation {result.quality:.2%}")
                    if result.rung == last_rung(work):
                        break
            finally:
                student.close()
        shutil.rmtree(work.checkpoint, ignore_errors=True)
        return Student(self, name)

    def to_dict(self) -> dict[str, Any]:
        """Return all that is known of it, in plain values."""
        record = self.record
        return {
            "trial": record.number,
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

    def __repr__(self) -> str:
        quality = self.record.quality
        shown = "no quality" if quality is None else f"quality {quality:.4f}"
        return f"Trial({self.record.number}, {self.record.state}, {shown})"


class Student:
    """A trained student in a folder."""

    def __init__(self, trial: Trial, key: str) -> None:
        self.trial = trial
        self.key = key
        self.folder: Path = trial.run.folder.student(key)

    @cached_property
    def module(self) -> nn.Module:
        """The network, in eval mode."""
        return self.load()

    def update(
        self,
        data: Dataset,
        *,
        epochs: float = 5.0,
        keep: float = 1.0,
        labels: bool = True,
        teacher: bool = False,
        observer: Observer | None = None,
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
            observer: is told of each epoch.
            changes: other settings of a training, e.g. ``optimizer={"lr": 0.001}``.

        Raises:
            ConfigError: the data do not fit the student, a setting is wrong, or nothing is left to learn from.
            TrainingError: the loss became NaN or infinite.
        """
        settings = Update.of(epochs=epochs, keep=keep, labels=labels, teacher=teacher, changes=changes)
        return Student(self.trial, update_student(self, data, settings, observer or Silent()))

    def load(self) -> nn.Module:
        """Return the network anew, in eval mode."""
        return read_student(self.trial.run.inputs, self.trial.run.folder, self.key)

    def evaluate(self, split: str | None = None) -> Evaluation:
        """Return accuracy, NLL, ECE, agreement with the teacher and share of its accuracy retained.

        ``split``: ``test`` where there is one, else ``val``.
        """
        data, teacher = self.trial.run.inputs.data, self.trial.run.inputs.teacher
        name = split or data.splits[-1]
        if name not in data.splits:
            raise ConfigError(f"data '{data.name}' has no split '{name}'; known: {', '.join(data.splits)}.")
        student, wanted = (
            predict_logits(module, (data.batch(name, index)[0] for index in data.batches(name)))
            for module in (self.module, teacher.module)
        )
        return evaluate_logits(student, data.labels(name), wanted)

    def export(self, path: str | Path | None = None) -> dict[str, Any]:
        """Export to ONNX, hold the file against PyTorch on validation data, time it; return what was found.

        ``path``: ``model.onnx`` in the student's folder unless given. ``predicted_ms`` of what is returned is the
        latency that the search reckoned with, None where it left latency out.

        Raises:
            ExportError: it cannot be exported, or the file does not compute what the network computes.
        """
        target = self.folder / "model.onnx" if path is None else Path(path)
        record = self.trial.record
        with disk_errors(target):
            result = export_student(self.trial.run.inputs, self.module, record.architecture.hash, target)
        return {"path": str(target), **result, "predicted_ms": record.costs.get(LATENCY)}

    def __repr__(self) -> str:
        return f"Student({str(self.folder)!r})"


def write_reports(run: Run) -> None:
    """Write a finished search's picture and card.

    Raises:
        RunError: the run has no finished student yet.
    """
    from nas_distill.report.card import write_card
    from nas_distill.report.plots import save_figure

    save_figure(run.plot(), run.folder.front_png)
    write_card(run.folder.card_md, run.report(), card_facts(run.folder, run.facts, run.inputs))
