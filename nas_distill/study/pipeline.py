"""The phases of a search, in order; each resumes from the journal."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace

from torch import Tensor

from nas_distill.blockwise.assembler import LibraryAssembler
from nas_distill.blockwise.library import build_library
from nas_distill.config import dump_yaml
from nas_distill.engine.backends import choose_backend, make_backend
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.child import warm_up
from nas_distill.engine.controller import Controller
from nas_distill.engine.evaluator import StudentEvaluator
from nas_distill.engine.finalists import FinalistSource, best_finalist
from nas_distill.engine.noise_probe import NoiseProbe
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.progress import Event
from nas_distill.engine.proposals import Assembler
from nas_distill.engine.survey import (
    Estimate,
    Survey,
    estimate_seconds,
    survey_space,
    trial_limit,
    typical_overhead,
    typical_seconds,
)
from nas_distill.engine.uniform import note_uniform, uniform_finalist
from nas_distill.engine.work import Backend, WorkSource
from nas_distill.evaluate.predict import predict_logits
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.journal import Journal, check_identity, open_journal
from nas_distill.runs.metadata import (
    BlockLibraryRecord,
    BlockWeightsRecord,
    DataRecord,
    LatencyRecord,
    Phase,
    StoreRecord,
    SurveyRecord,
    TeacherRecord,
    Unpruned,
)
from nas_distill.runs.records import read_records, write_csv
from nas_distill.study.allocation import allocate
from nas_distill.study.assembly import describe_alternatives, scored
from nas_distill.study.cutting import Cutting, budget_advice, cache_plan, describe_cutting, unordered_inheritance
from nas_distill.study.finish import evaluate_once, export_finalists, screened_finalists, screened_uniform
from nas_distill.study.interruption import InterruptedSearchError, Interruption, run_stoppably
from nas_distill.study.latency import fit_latency_predictor, networks_to_time, restore_latency_predictor, time_teacher
from nas_distill.study.observer import Observer
from nas_distill.study.problem import SearchProblem
from nas_distill.study.run import Run, write_picture, write_run_card
from nas_distill.study.signals import describe_compared_layers, store_contents, teacher_signal
from nas_distill.study.trust import remember_run
from nas_distill.study.warm_start import describe_warm_start, read_earlier_runs
from nas_distill.teacher import TeacherSignal, TeacherStore
from nas_distill.utils.errors import NasDistillError, RunError
from nas_distill.utils.files import disk_errors, write_text, written_folders
from nas_distill.utils.modules import resolve_device


class Pipeline:
    """A search in a run folder."""

    def __init__(
        self,
        problem: SearchProblem,
        folder: RunFolder,
        observer: Observer,
        interruption: Interruption,
        *,
        started: float | None = None,
    ) -> None:
        """Prepare a search; ``started`` is the start of its time, by ``time.perf_counter()``."""
        self._accounted = time.perf_counter() if started is None else started
        self.problem = problem
        self.config = problem.config
        self.folder = folder
        self.observer = observer
        self.interruption = interruption
        self.candidates = problem.candidates(written_folders(folder.path))

    def run(self) -> None:
        """Search, distil the finalists, export and time them, evaluate once on test data, and report.

        Raises:
            InterruptedSearchError: it was stopped on request; the journal contains all finished work.
            NasDistillError: the problem or the run folder is invalid.
        """
        self.observer.note(f"Run: {self.folder.path}")
        with disk_errors(self.folder.path), self.folder.lock(), self.candidates:
            warm_up()
            objectives = self.problem.objectives
            journal = open_journal(self.folder, directions=objectives.directions, names=objectives.names)
            check_identity(self.folder, journal, self.problem.identity)
            journal.note_environment(self.config.seed)
            self._note_versions(journal)
            base, data = os.path.relpath(self.problem.base, self.folder.path.resolve()), self.problem.data
            journal.note(
                data=DataRecord(name=data.name, fingerprint=data.fingerprint),
                task=data.task,
                base=base,
            )
            write_text(self.folder.search_yaml, dump_yaml(self.config))
            remember_run(self.folder, base)
            if self.problem.cutting is not None:
                cache_plan(self.problem.cutting, self.folder.plan)
            try:
                self._phases(journal, objectives)
            except KeyboardInterrupt as error:
                raise InterruptedSearchError(self._how_to_resume()) from error
            except ImportError as error:
                # A native package turns an interrupt during its import into an error of its own.
                if self.interruption.stop_requested:
                    raise InterruptedSearchError(self._how_to_resume()) from error
                raise
            finally:
                if self.folder.exists:
                    with suppress(OSError, NasDistillError):  # a full disk was reported already
                        if not journal.metadata.finished:
                            self._record_remaining_time(journal)
                        write_csv(read_records(journal.study), self.folder.trials_csv)

    def _phases(self, journal: Journal, objectives: Objectives) -> None:
        for sentence in (*describe_cutting(self.problem.cutting), *self.problem.notes):
            self.observer.note(sentence)
        if self.problem.cutting is not None:
            unpruned = self.problem.cutting.plan.unpruned
            journal.note(unpruned=tuple(Unpruned(module=one.module, reason=one.reason) for one in unpruned))
        pricing = self.pricing(journal)
        try:
            self._warm_start(journal, pricing)
            with self._phase(journal, Phase.SURVEY):
                survey = self.survey(pricing)
        except NasDistillError:  # before the teacher reads the data
            self._remove_empty_run(journal)
            raise
        with self._phase(journal, Phase.TEACHER_VALIDATION, needed=journal.metadata.teacher is None):
            self._record_teacher(journal, pricing)
        signal = self._signal(journal)
        with self._phase(journal, Phase.STEP_TIMING):
            estimate = self.estimate(survey, signal)
        self._record_survey(journal, survey, estimate)
        self.observer.survey(survey, estimate, pricing, self.problem)
        if self.problem.cutting is not None and self.problem.cutting.inherits:
            with self._phase(journal, Phase.IMPORTANCE):
                _ = self.problem.cutting.inheritance  # measured at first use
        assembler = self._assembler(journal, pricing, signal)
        evaluator = self.problem.evaluator(signal, self.folder)
        search = self.config.search
        limit = trial_limit(self.config, self.problem.data, estimate.step, survey.spread(search.objectives[0]))
        with ExitStack() as backends:
            backend = backends.enter_context(make_backend(search, self.folder.path, limit, estimate.trials))
            margin = self._margin(journal, survey, backend, evaluator)
            self._search(journal, objectives, pricing, margin, backend, evaluator, assembler)
            if choose_backend(search, estimate.trials) != choose_backend(search, estimate.finalists):
                backend = backends.enter_context(make_backend(search, self.folder.path, limit, estimate.finalists))
            self._finalists(journal, pricing, backend, evaluator, estimate.final_workers)
        with self._phase(journal, Phase.EXPORT, needed=journal.metadata.exports is None):
            export_finalists(self.problem, self.folder, journal)
        with self._phase(journal, Phase.EVALUATION, needed=journal.metadata.evaluation is None):
            evaluate_once(self.problem, self.folder, journal)
        with self._phase(journal, Phase.REPORT):
            write_picture(Run(self.folder.path, problem=self.problem))
        self._record_remaining_time(journal)  # before the report reads the timings
        run = Run(self.folder.path, problem=self.problem)
        write_run_card(run)
        journal.note(phase=None, finished=True)
        self.observer.finished(run.report())

    def _note_versions(self, journal: Journal) -> None:
        changed = journal.metadata.changed_versions()
        if changed:
            then = ", ".join(f"{name} {before}" for name, (before, _) in changed.items())
            now = ", ".join(f"{name} {after}" for name, (_, after) in changed.items())
            self.observer.note(
                f"This run was started with {then} and continues with {now}; scores from before and after may differ."
            )

    def _remove_empty_run(self, journal: Journal) -> None:
        """Remove a run without trials, so that the next search, of a corrected file, gets its folder."""
        if journal.study.get_trials(deepcopy=False):
            return
        for path in (self.folder.search_yaml, self.folder.plan, self.folder.journal, self.folder.lock_file):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # it contains other files
            self.folder.path.rmdir()

    def _warm_start(self, journal: Journal, pricing: Pricing) -> None:
        """Note what earlier runs give to this search, once, so that a resumed search does not need their folders."""
        if self.config.search.warm_start and journal.metadata.warm_start is None:
            journal.note(warm_start=read_earlier_runs(self.problem, pricing, read_records(journal.study)))
            for sentence in describe_warm_start(journal.metadata.warm_start):
                self.observer.note(sentence)

    def pricing(self, journal: Journal | None) -> Pricing:
        """Return the pricing: with the stored or newly fitted latency predictor, and the teacher's costs."""
        stored = None if journal is None else journal.metadata.latency
        if stored is not None:
            latency, measured = restore_latency_predictor(stored.model), stored.teacher_ms
        else:
            with self._phase(journal, Phase.LATENCY, needed=networks_to_time(self.problem) > 0):
                latency = fit_latency_predictor(self.problem, self.observer.step, self.candidates)
                sample = time_teacher(self.problem) if latency is not None else None
                measured = None if sample is None else sample.p50_ms
            if journal is not None:
                model = None if latency is None else latency.to_dict()
                journal.note(latency=LatencyRecord(model=model, teacher_ms=measured))
        return self.problem.pricing(latency, measured, self.candidates)

    def _record_teacher(self, journal: Journal, pricing: Pricing) -> None:
        known = journal.metadata
        validation = self._teacher_validation() if known.teacher is None else known.teacher.validation
        journal.note(
            teacher=TeacherRecord(name=self.problem.teacher.name, costs=pricing.teacher, validation=validation)
        )
        if known.constant_quality is None:
            journal.note(constant_quality=self.problem.task.constant_quality(self.problem.data.labels("val")))

    def _teacher_validation(self) -> float:
        data = self.problem.data
        logits = predict_logits(self.problem.teacher.module, self._counted(data.inputs("val"), len(data.val)))
        quality = self.problem.task.quality(logits, data.labels("val"))
        if quality < 0:
            self.observer.note(
                f"The teacher's R\N{SUPERSCRIPT TWO} on validation data is {quality:.2f}, worse than their mean; are "
                "its outputs in the units of the targets?"
            )
        return quality

    def _counted(self, batches: Iterable[Tensor], total: int) -> Iterator[Tensor]:
        """Yield the batches and report the number of processed samples to the observer."""
        done = 0
        for batch in batches:
            yield batch
            done += len(batch)
            self.observer.step(done, total)

    def survey(self, pricing: Pricing) -> Survey:
        """Sample the space, and price the candidates.

        Raises:
            BudgetError: no candidate is within the budget.
            RunError: no candidate can be built.
        """
        config = self.config
        survey = survey_space(
            self.problem.space,
            pricing,
            by=config.search.objectives[0],
            seed=config.seed,
            on_step=self.observer.step,
        )
        if (advice := budget_advice(survey, pricing.budget, self.problem.cutting)) is not None:
            self.observer.note(advice)
        return survey

    def estimate(self, survey: Survey, signal: TeacherSignal | None) -> Estimate:
        """Time a training step of a typical candidate and its overhead, and estimate the time of the search."""
        config, problem = self.config, self.problem
        step = typical_seconds(survey, problem.builder, problem.data, signal, config.score.training, config.device)
        untrained = replace(problem.builder, weights=unordered_inheritance(problem.cutting))
        overhead = typical_overhead(survey, untrained, problem.data, config)
        return estimate_seconds(config, problem.data, step, config.search.trials, overhead)

    def _signal(self, journal: Journal) -> TeacherSignal:
        problem = self.problem
        with self._phase(journal, Phase.TEACHER_STORE, needed=self.config.teacher.signal != "live"):
            signal = teacher_signal(problem, self.folder, self.observer, self.config.score.training)
        for sentence in describe_compared_layers(problem, self.candidates):
            self.observer.note(sentence)
        if not isinstance(signal, TeacherStore):
            return signal
        samples = problem.data.views.count * len(problem.data.train) + len(problem.data.val)
        journal.note(store=StoreRecord(key=signal.key, bytes=signal.bytes, seconds=signal.seconds, samples=samples))
        return signal

    def _record_survey(self, journal: Journal, survey: Survey, estimate: Estimate) -> None:
        journal.note(
            survey=SurveyRecord(
                cheapest=survey.cheapest.costs,
                median=survey.median.costs,
                largest=survey.largest.costs,
                share=survey.share,
                shares=survey.shares,
                candidates=len(survey.candidates),
                estimated_seconds=estimate.wall,
                final_workers=estimate.final_workers,
                samples_per_step=min(self.config.score.training.batch_size, len(self.problem.data.train)),
            )
        )

    def _assembler(self, journal: Journal, pricing: Pricing, signal: TeacherSignal) -> Assembler | None:
        """Return the source of candidates of the search's strategy; None for strategy: sample."""
        if self.config.search.strategy == "sample" or self.problem.cutting is None:
            return None
        if sum(record.trained for record in read_records(journal.study)) >= self.config.search.trials:
            return None  # a resumed search that needs no more candidates
        if self.config.search.strategy == "allocate":
            with self._phase(journal, Phase.ALLOCATION):
                return allocate(self.problem, self.problem.cutting, pricing, signal, self.folder, self.observer)
        return self._library_assembler(journal, pricing, self.problem.cutting)

    def _library_assembler(self, journal: Journal, pricing: Pricing, cutting: Cutting) -> LibraryAssembler:
        """Distil the alternatives of the teacher's blocks, and return their assembler."""
        config = self.config
        stop_requested: list[bool] = []

        def on_begin(count: int) -> None:
            self.observer.note(describe_alternatives(count, cutting, config.blockwise.epochs))

        def on_step(done: int, total: int) -> None:
            self.observer.step(done, total)
            if stop_requested:
                raise KeyboardInterrupt

        with self._phase(journal, Phase.BLOCKWISE), self.interruption.stopping(lambda: stop_requested.append(True)):
            library = build_library(
                cutting.inheritance,
                self.problem.data,
                settings=config.blockwise,
                seed=config.seed,
                folder=self.problem.blocks_folder(self.folder),
                device=resolve_device(config.device),
                on_begin=on_begin,
                on_step=on_step,
            )
        journal.note(blocks=BlockLibraryRecord(alternatives=len(library.scores), presented=library.presented))
        return LibraryAssembler(
            library,
            pricing.budget.limits,
            by=config.search.objectives[0],
            settings=config.blockwise,
            exclusive=config.search.strategy == "blockwise",
            seed=config.seed,
        )

    def _margin(
        self, journal: Journal, survey: Survey, backend: Backend, evaluator: StudentEvaluator
    ) -> float | tuple[float, ...] | None:
        pruning, known = self.config.search.pruning, journal.metadata.margin
        if pruning.rule == "none" or pruning.margin != "auto":
            return None
        if known is not None:
            return known
        probe = NoiseProbe(
            self.folder,
            survey.typical.architecture,
            self.config.score,
            seeds=pruning.probe_seeds,
            seed=self.config.seed,
        )
        with self._phase(journal, Phase.NOISE_PROBE):
            self._execute(backend, probe, evaluator)
        margins = probe.margins(pruning.z)
        journal.note(margin=margins)
        return margins

    def _search(
        self,
        journal: Journal,
        objectives: Objectives,
        pricing: Pricing,
        margin: float | tuple[float, ...] | None,
        backend: Backend,
        evaluator: StudentEvaluator,
        assembler: Assembler | None,
    ) -> None:
        def on_event(event: Event) -> None:
            self.observer.event(event, controller.progress)

        note_uniform(journal, self.problem.space, pricing, self.problem.cuts)
        controller = Controller(
            journal,
            self.folder,
            space=self.problem.space,
            pricing=pricing,
            search=self.config.search,
            score=self.config.score,
            seed=self.config.seed,
            objectives=objectives,
            margin=margin,
            # The hypervolume is bounded by the budget, or by the teacher's cost where no limit is set.
            reference={
                name: pricing.teacher[name]
                for name in objectives.costs
                if name in pricing.teacher and name not in pricing.budget.limits
            },
            assembler=assembler,
            on_event=on_event,
            paths=self.problem.paths,
        )
        before = controller.progress()
        with self._phase(journal, Phase.SEARCH, needed=before.done < before.requested):
            self._execute(backend, controller, evaluator)
        started = getattr(backend, "startup_seconds", None)
        if started is not None:
            journal.note(startup_seconds=started)
        controller.conclude()
        if isinstance(assembler, LibraryAssembler):
            fitted = assembler.fit(scored(read_records(journal.study)))
            if fitted is not None:
                journal.note(block_weights=BlockWeightsRecord.model_validate(vars(fitted)))

    def _finalists(
        self, journal: Journal, pricing: Pricing, backend: Backend, evaluator: StudentEvaluator, workers: int
    ) -> None:
        records = read_records(journal.study)
        chosen = screened_finalists(self.problem, journal, pricing.budget, records)
        uniform = None
        if self.config.final.uniform:
            uniform = uniform_finalist(screened_uniform(self.problem, journal, pricing, records), records)
        source = FinalistSource(
            self.folder,
            journal,
            self.config.final,
            chosen,
            seed=self.config.seed,
            workers=workers,
            uniform=uniform,
            on_event=lambda entry: self.observer.finalist(entry, source.progress()),
        )
        with self._phase(journal, Phase.FULL_DISTILLATION, needed=not source.complete):
            evaluator = self._for_finalists(evaluator)
            while not source.complete:
                # A second round trains the baseline of a finalist that became the best only at its end.
                self._execute(backend, source, evaluator)
        if best_finalist(source.entries) is None:
            causes = [entry.cause for entry in source.entries if entry.cause]
            raise RunError(f"Every finalist failed in its full distillation; the first with: {causes[0].rstrip('.')}.")

    def _for_finalists(self, evaluator: StudentEvaluator) -> StudentEvaluator:
        """Return the evaluator with the teacher signal of the finalists' loss, which may read more than the score's."""
        score, final = self.config.score.training, self.config.final.training
        if store_contents(self.problem, score) == store_contents(self.problem, final):
            return evaluator
        return replace(evaluator, signal=teacher_signal(self.problem, self.folder, self.observer, final))

    def _execute(self, backend: Backend, source: WorkSource, evaluator: StudentEvaluator) -> None:
        run_stoppably(backend, source, evaluator, self.interruption, self.observer)
        if self.interruption.stop_requested:
            raise InterruptedSearchError(self._how_to_resume())

    @contextmanager
    def _phase(self, journal: Journal | None, phase: Phase, *, needed: bool = True) -> Iterator[None]:
        """Announce and time a phase; one that is not needed is not announced, and counts as other time."""
        if not needed:
            yield
            return
        self._record_remaining_time(journal)
        if journal is not None:
            journal.note(phase=phase)
        self.observer.phase(phase)
        try:
            yield
        finally:
            self._record_time(journal, phase)

    def _record_remaining_time(self, journal: Journal | None) -> None:
        """Record the time since the last phase as other, so that all phases add up to the total."""
        self._record_time(journal, Phase.OTHER)

    def _record_time(self, journal: Journal | None, phase: Phase) -> None:
        if journal is None:
            return
        now = time.perf_counter()
        timings = journal.metadata.timings
        spent = timings.get(phase, 0.0) + now - self._accounted
        self._accounted = now
        journal.note(timings={**timings, phase: spent})

    def _how_to_resume(self) -> str:
        return f"Stopped. Finished work is kept in {self.folder.path}; resume with the same command and --resume."
