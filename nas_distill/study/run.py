"""Runs of a search: front, trials and best student under any budget."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas_distill.engine.finalists import best_finalist, final_progress, uniform_of
from nas_distill.reports.model import FinalistResult, FinalReport, ModelResult
from nas_distill.runs.metadata import Finalist
from nas_distill.runs.pareto import front_records
from nas_distill.runs.records import TrialRecord, to_frame, untried
from nas_distill.spaces import Architecture
from nas_distill.study.assembly import CountedAssembly, assemble, reallocate
from nas_distill.study.finish import baseline_of
from nas_distill.study.mutual import distill_mutually
from nas_distill.study.observer import Observer, default_observer
from nas_distill.study.reporting import card_facts, constant_quality_note, final_report, finalist_results
from nas_distill.study.signals import store_contents, store_root
from nas_distill.study.stored import StoredRun
from nas_distill.study.student import Student
from nas_distill.study.trial import Trial
from nas_distill.tasks import find_task
from nas_distill.teacher import TeacherStore
from nas_distill.teacher.store import StoreCheck
from nas_distill.utils.errors import BudgetError, RunError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from nas_distill.reports.importance import ImportanceReport


class Run(StoredRun):
    """A run, read only from its folder; open one with ``nas_distill.open_run``.

    ``data``, ``teacher``, ``space`` and ``builder`` replace objects that the search got from Python. Records are read
    once; ``refresh()`` reads them again. ``trust``: code and files that another user's run names may be loaded; the
    user's own runs do not need it.
    """

    def card(self) -> str:
        """Return the card of the search's student in Markdown: the stored one, or a new one where it is missing.

        Raises:
            RunError: the run has no finished student yet.
        """
        from nas_distill.reports.card import card

        report = self.report()
        if self.folder.card_md.exists():
            return self.folder.card_md.read_text(encoding="utf-8")
        return card(report, card_facts(self.folder, self.metadata, self.problem))

    def trials(self) -> pd.DataFrame:
        """Return a row per trial, including over-budget, stopped and failed ones."""
        return to_frame(self.records)

    def unpruned(self) -> pd.DataFrame:
        """Return the modules of the teacher that stay unpruned: a row per module ("" is the network), with the reason.

        Empty where everything can be pruned, and where students are not cut from the teacher.
        """
        import pandas as pd

        return pd.DataFrame([dict(one) for one in self.metadata.unpruned], columns=["module", "reason"])

    def front(self, budget: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Return the Pareto front of completed trials within ``budget`` (the run's own unless given).

        Indexed by trial, by rising cost: ``quality`` after the short distillation, ``full_quality`` of trials that were
        distilled in full, and the costs that the search minimises or limits, in base units; ``trials()`` has all
        columns. Trials that are not better than a constant answer (the most frequent class, the mean) are left out.
        """
        frame = to_frame(self.front_records(budget))
        costs = dict.fromkeys((*self.config.search.objectives, *self.budget_of(budget).limits))
        if frame.empty:
            return frame.reindex(columns=["quality", *costs])
        shown = [name for name in ("quality", *costs) if name in frame]
        full = {entry.trial: entry.full for entry in self.finalists() if entry.full is not None}
        if not full.keys().isdisjoint(frame.index):
            frame = frame.assign(full_quality=[full.get(number, math.nan) for number in frame.index])
            shown.insert(1, "full_quality")
        return frame[shown]

    def front_records(self, budget: Mapping[str, Any] | None = None) -> list[TrialRecord]:
        """Return the front's records by rising cost, without those that are not better than a constant answer."""
        known = self.metadata.constant_quality
        constant = -math.inf if known is None else known
        return [record for record in self._non_dominated(budget) if record.final_quality > constant]

    def _non_dominated(self, budget: Mapping[str, Any] | None) -> list[TrialRecord]:
        limits = self.budget_of(budget)
        within = [record for record in self.records if record.state == "complete" and limits.fits(record.costs)]
        return front_records(within, self.config.search.objectives)

    def student(self) -> Student:
        """Return the student that the search distilled: the best finalist, with its weights.

        Raises:
            RunError: the search has not distilled one in full yet.
        """
        winner = best_finalist(self.metadata.finalists.values())
        if winner is None:
            raise RunError(
                f"{self.folder.path} has no finished student yet; resume the search (resume=True, or --resume)."
            )
        return Student(self, self._trial_of(winner).record, winner.key)

    def best(self, budget: Mapping[str, Any] | None = None) -> Trial:
        """Return the best trial within ``budget`` (the run's own unless given); nothing is trained.

        It is the finalist of the best full validation quality; without a finalist, the trial of the best short score.
        The uniform network is a finalist too; see ``uniform``.

        Raises:
            BudgetError: no trained trial is within it.
        """
        limits = self.budget_of(budget)
        finalists = [entry for entry in self.metadata.finalists.values() if limits.fits(entry.costs)]
        winner = best_finalist(finalists)
        if winner is not None:
            return self._trial_of(winner)
        front = self._non_dominated(budget)
        if not front:
            trained = [record.costs for record in self.records if record.state == "complete"]
            none = "No trial was completed yet." if not trained else limits.infeasible(trained)
            raise BudgetError(f"Run {self.folder.path}: {none}")
        return Trial(self, max(front, key=lambda record: record.final_quality))

    def uniform(self) -> Trial | None:
        """Return the uniform network that was distilled in full: the best one that needs no search; None without one.

        Its ``student()`` has the weights. If it was not a candidate of the search, its record has the state ``uniform``
        and the number -1. ``report().gain`` is the gain of the search over it.
        """
        entry = uniform_of(self.metadata)
        return None if entry is None or entry.quality is None else self._trial_of(entry)

    def _trial_of(self, entry: Finalist) -> Trial:
        if entry.trial is not None:
            return self.trial(entry.trial)
        return Trial(self, untried(entry.key, Architecture(entry.architecture), entry.costs))

    def trial(self, number: int) -> Trial:
        """Return a trial by its number.

        Raises:
            RunError: there is no such trial.
        """
        for record in self.records:
            if record.number == number:
                return Trial(self, record)
        known = f"it has 0 to {len(self.records) - 1}" if self.records else "it has none yet"
        raise RunError(f"Run {self.folder.path} has no trial {number}; {known}.")

    def distill_mutually(
        self,
        trials: Sequence[int] | None = None,
        *,
        epochs: float | None = None,
        observer: Observer | None = None,
        quiet: bool = False,
        **changes: Any,
    ) -> list[Student]:
        """Distil trials in this process, each taught by the teacher and by the other trials (mutual learning).

        See ``MutualSignal``. A checkpoint is saved per epoch; the same call resumes from it.

        Args:
            trials: numbers of at least two trials; the finalists unless given.
            epochs: length, the run's own ``final.epochs`` unless given.
            observer: gets progress per epoch; it is shown here unless given.
            quiet: show nothing.
            changes: other settings of the ``final`` section.

        Raises:
            RunError: fewer than two different trials.
            ConfigError: a setting is wrong, or the loss has no ``kd``.
            TrainingError: a loss became NaN or infinite.
        """
        if trials is None:
            finalists = self.metadata.finalists.values()
            trials = [entry.trial for entry in finalists if entry.taught and entry.trial is not None]
        chosen = [self.trial(number).record for number in trials]
        with default_observer(observer, quiet=quiet) as active:
            return distill_mutually(self, chosen, epochs=epochs, observer=active, **changes)

    def assemble(
        self,
        budget: Mapping[str, Any] | None = None,
        *,
        count: int = 10,
        observer: Observer | None = None,
        quiet: bool = False,
    ) -> list[CountedAssembly]:
        """Return the best students for another budget; nothing is trained.

        In a run of ``strategy: allocate`` they are the cuts that spend the budget and diverge least from the teacher
        before training. In a run of ``strategy: blockwise`` or ``hybrid`` they are assemblies of its distilled blocks.
        ``run.candidate(found).distill()`` distils one in full.

        Args:
            budget: the run's own unless given.
            count: students to return; there may be fewer.
            observer: gets progress; it is shown here unless given.
            quiet: show nothing.

        Raises:
            RunError: the run has another strategy, or no distilled blocks.
            BudgetError: nothing fits, or a limit is on a cost that is not a sum over blocks.
        """
        limits = self.budget_of(budget)
        if self.config.search.strategy != "allocate":
            return assemble(self.problem, self.folder, self.records, limits, count=count)
        with default_observer(observer, quiet=quiet) as active:
            return reallocate(self.problem, self.folder, self.metadata, self.records, limits, active, count=count)

    def candidate(self, found: CountedAssembly) -> Trial:
        """Return what ``assemble`` found as a trial, which can be distilled and exported."""
        if found.trial is not None:
            return self.trial(found.trial)
        key = f"a{found.architecture.hash[:8]}"
        return Trial(self, untried(key, found.architecture, dict(found.costs), "untried"))

    def report(self) -> FinalReport:
        """Return the final report: student, teacher, baseline, gain of the search, savings, rank correlation of scores.

        Raises:
            RunError: the run has no finished student yet.
        """
        _ = self.task  # refuses another user's code
        return final_report(self.folder, self.metadata, self.records)

    def finalists(self) -> tuple[FinalistResult, ...]:
        """Return the candidates and the uniform network that were distilled in full; the best one has ``chosen``."""
        return finalist_results(self.metadata)

    def status(self) -> dict[str, Any]:
        """Return the state of the run as plain values; ``process`` is the searching process on this machine."""
        states = Counter("taken" if record.taken else record.state for record in self.records)
        front = self.front_records()
        best = max(front, key=lambda record: record.final_quality) if front else None
        process = self.folder.process
        state = "finished" if self.finished else "stopped" if process is None else "running"
        return {
            "run": str(self.folder.path),
            "state": state,
            "process": process,
            "phase": None if self.finished else self.metadata.phase,
            "requested": self.config.search.trials,
            "trained": sum(record.trained for record in self.records),
            **{state: states[state] for state in sorted(states)},
            "front": len(front),
            "best_trial": None if best is None else best.number,
            "best_quality": None if best is None else best.final_quality,
            "finalists": sum(entry.full is not None for entry in self.finalists()),
            **self._final_status(),
            "hours_trained": round(sum(record.seconds for record in self.records) / 3600, 3),
        }

    def _final_status(self) -> dict[str, Any]:
        """Return the progress of the full distillations, and their remaining seconds while they run."""
        entries, config = list(self.metadata.finalists.values()), self.config
        if not entries:
            return {}
        survey = self.metadata.survey
        workers = config.search.workers if survey is None else survey.final_workers
        progress = final_progress(entries, config.final, workers)
        left = None if self.finished or progress.seconds_left is None else round(progress.seconds_left, 1)
        return {"full_epochs": progress.done, "full_epochs_requested": progress.total, "full_seconds_left": left}

    def verify_store(self, samples: int = 256) -> StoreCheck:
        """Compare stored teacher logits with the live teacher's.

        Raises:
            TeacherError: the store is missing, is of another teacher or data, or an answer differs.
        """
        problem = self.problem
        store = TeacherStore.open(
            store_root(problem, self.folder),
            problem.teacher,
            problem.data,
            contents=store_contents(problem, problem.config.score.training),
        )
        return store.verify(problem.teacher, problem.data, samples=samples)

    def plot(self, budget: Mapping[str, Any] | None = None) -> Figure:
        """Return a figure of the front within and over the budget."""
        from nas_distill.reports.plots import front_figure

        return front_figure(
            self.records,
            costs=self.config.search.objectives,
            limits=self.budget_of(budget).limits,
            teacher=self._teacher_point(),
            finalists=finalist_results(self.metadata),
            baseline=self._baseline_point(),
            quality=f"validation {find_task(self.task).quality_name}",
            guess=self.metadata.constant_quality,
        )

    def importance(self, cost: str | None = None) -> ImportanceReport:
        """Return the importance of parameters for quality, in total and at equal cost.

        Raises:
            RunError: too few trials reported at the same rung.
        """
        from nas_distill.reports.importance import parameter_importance

        return parameter_importance(self.records, cost or self.config.search.objectives[0])

    def _teacher_point(self) -> ModelResult | None:
        teacher = self.metadata.teacher
        if teacher is None:
            return None
        return ModelResult("teacher", validation=teacher.validation, costs=teacher.costs)

    def _baseline_point(self) -> ModelResult | None:
        winner = best_finalist(self.metadata.finalists.values())
        entry = None if winner is None else baseline_of(winner, self.metadata)
        labels_only = find_task(self.task).training_without_teacher
        return None if entry is None else ModelResult(labels_only, validation=entry.quality, costs=entry.costs)

    def _repr_html_(self) -> str:
        note = constant_quality_note(self.metadata, self.records)
        paragraph = f"<p>{html.escape(note)}</p>" if note else ""
        return f"<p><b>{html.escape(repr(self))}</b></p>{self.front().to_html(max_rows=20)}{paragraph}"

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"Run({str(self.folder.path)!r}, {len(self.records)} trials, {state})"


def write_picture(run: Run) -> None:
    """Write the figure of the front."""
    from nas_distill.reports.plots import save_figure

    save_figure(run.plot(), run.folder.front_png)


def write_run_card(run: Run) -> None:
    """Write the card of a finished search's student.

    Raises:
        RunError: the run has no finished student yet.
    """
    from nas_distill.reports.card import write_card

    write_card(run.folder.card_md, run.report(), card_facts(run.folder, run.metadata, run.problem))
