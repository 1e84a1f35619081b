"""Reports of a run, from its records and metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from nas_distill.costs.budget import Budget
from nas_distill.costs.latency import LATENCY
from nas_distill.costs.registry import describe_cost
from nas_distill.distill.objective import Term
from nas_distill.engine.candidates import Pricing
from nas_distill.engine.finalists import best_finalist, uniform_of
from nas_distill.engine.progress import Progress
from nas_distill.engine.survey import Estimate, Survey
from nas_distill.export.student import load_spec
from nas_distill.reports import formatting
from nas_distill.reports.model import (
    CardFacts,
    CostRow,
    CostSummary,
    ExportResult,
    FinalistResult,
    FinalReport,
    Gain,
    ModelResult,
    ProgressView,
    Savings,
    ratio,
)
from nas_distill.reports.trust import compare_starts, local_ranking, rank_trust
from nas_distill.runs.folder import RunFolder
from nas_distill.runs.metadata import EvaluationRecord, ExportRecord, ExportsRecord, Finalist, Phase, RunMetadata
from nas_distill.runs.records import TrialRecord
from nas_distill.spaces import Architecture
from nas_distill.study.finish import baseline_of
from nas_distill.study.problem import SearchProblem
from nas_distill.study.warm_start import describe_warm_start
from nas_distill.tasks import find_task, read_evaluation
from nas_distill.utils.errors import RunError


def cost_summary(survey: Survey, estimate: Estimate, pricing: Pricing, problem: SearchProblem) -> CostSummary:
    """Return the cost table that is shown before a search."""
    objectives = problem.config.search.objectives
    order = [*objectives, *(name for name in pricing.names if name not in objectives)]
    shown = [name for name in order if name in survey.cheapest.costs]
    rows = tuple(
        CostRow(
            name=name,
            cheapest=survey.cheapest.costs[name],
            median=survey.median.costs[name],
            largest=survey.largest.costs[name],
            teacher=pricing.teacher.get(name),
            limit=pricing.budget.limits.get(name),
            fits=survey.shares.get(name),
            objective=name in objectives,
            error=pricing.latency.error.median if pricing.latency and describe_cost(name).measured else None,
        )
        for name in shown
    )
    latency = pricing.latency
    return CostSummary(
        space=problem.space.name,
        size=str(problem.space.size()),
        sampled=len(survey.candidates) + len(survey.failures),
        rows=rows,
        trials=problem.config.search.trials,
        workers=estimate.workers,
        unbuildable=len(survey.failures),
        first_cause=survey.failures[0] if survey.failures else None,
        fits_all=survey.share,
        search_seconds=None if estimate.trials is None else estimate.trials / estimate.workers,
        final_seconds=None if estimate.finalists is None else estimate.finalists / estimate.final_workers,
        conditions=latency.conditions.text() if latency is not None else None,
        seconds=survey.seconds,
    )


def progress_view(phase: str, progress: Progress) -> ProgressView:
    """Return the live view of the controller's snapshot."""
    best = progress.best
    return ProgressView(
        phase=phase,
        done=progress.done,
        total=progress.requested,
        running=progress.running,
        complete=progress.complete,
        pruned=progress.pruned,
        failed=progress.failed,
        over_budget=progress.over_budget,
        below=progress.below,
        duplicates=progress.duplicates,
        best_quality=best.quality if best else None,
        best_trial=best.number if best else None,
        best_costs=dict(best.costs) if best else {},
        front_size=progress.front_size,
        hypervolume=progress.hypervolume,
        elapsed_seconds=progress.elapsed_seconds,
        left_seconds=progress.seconds_left,
        stopping=progress.stopping,
    )


def finalist_results(metadata: RunMetadata) -> tuple[FinalistResult, ...]:
    """Return the results of a run's finalists; the best one has ``chosen``."""
    finalists = metadata.finalists.values()
    winner = best_finalist(finalists)
    return tuple(
        FinalistResult(
            trial=entry.trial,
            costs=entry.costs,
            short=entry.score,
            full=entry.quality,
            chosen=winner is not None and entry.key == winner.key,
            cause=entry.cause,
            uniform=metadata.uniform is not None and entry.architecture == metadata.uniform.architecture,
        )
        for entry in finalists
        if entry.taught
    )


def uniform_gain(
    winner: Finalist, metadata: RunMetadata, evaluation: EvaluationRecord
) -> tuple[ModelResult | None, Gain | None]:
    """Return the uniform network and the student's gain over it.

    Both are None if there is no uniform network, its training failed, or it was trained after the evaluation.
    """
    known, entry = metadata.uniform, uniform_of(metadata)
    if known is None or entry is None or entry.quality is None:
        return None, None
    same = entry.architecture == winner.architecture
    found = evaluation.gain
    if not same and found is None:
        return None, None
    exports = {} if metadata.exports is None else metadata.exports.students
    model = _model(known.name, winner if same else entry, evaluation, exports, metadata.task)
    ours, theirs = (exports.get(one.key) for one in (winner, entry))
    shares = {name: ratio(winner.costs.get(name), value) for name, value in entry.costs.items()}
    return model, Gain(
        over=known.name,
        student_is_uniform=same,
        difference=0.0 if found is None else found.difference,
        low=0.0 if found is None else found.low,
        high=0.0 if found is None else found.high,
        samples=read_evaluation(evaluation.teacher, metadata.task).count if found is None else found.samples,
        costs={name: share for name, share in shares.items() if share is not None},
        speed=None if ours is None or theirs is None else ratio(theirs.latency.p50_ms, ours.latency.p50_ms),
    )


def uniform_note(metadata: RunMetadata) -> list[str]:
    """Return a sentence on why a search is not compared with a uniform network, or an empty list."""
    known, entry = metadata.uniform, uniform_of(metadata)
    if known is None:
        return []
    if known.architecture is None and not metadata.budget:
        return [f"The budget has no limits, so there is no {known.name} to compare the search with."]
    if known.architecture is None:
        return [f"No {known.name} is within the budget, so the search is not compared with a network without a search."]
    if entry is None or entry.cause is None:
        return []
    cause = entry.cause.rstrip(".")
    return [f"The gain over {known.name} is unknown, as that failed in its full distillation: {cause}."]


def validation_gap_note(metadata: RunMetadata) -> list[str]:
    """Return a warning where the teacher is significantly better on validation than on test data, else an empty list.

    It was then probably trained on the validation samples. The threshold is 1.5 times the 95 % interval of the
    difference, about 3 standard errors: one false warning in about 600 searches. Test data is only reported here.
    """
    evaluation, teacher = metadata.evaluation, metadata.teacher
    if evaluation is None or teacher is None or evaluation.split != "test":
        return []
    tested = read_evaluation(evaluation.teacher, metadata.task)
    gap = teacher.validation - tested.quality
    if not gap > 1.5 * tested.error * math.sqrt(1 + tested.count / evaluation.validation_samples):
        return []
    return [
        f"The teacher is {100 * gap:.1f} points better on validation than on test data, beyond chance. If it "
        "was trained on the validation samples, validation figures of teacher and students are too high; search with "
        "samples that it was not trained on."
    ]


def final_report(folder: RunFolder, metadata: RunMetadata, records: Sequence[TrialRecord]) -> FinalReport:
    """Return the final report of a search.

    Raises:
        RunError: the run has no finished student yet.
    """
    winner = best_finalist(metadata.finalists.values())
    evaluation, teacher = metadata.evaluation, metadata.teacher
    exports = metadata.exports or ExportsRecord(students={}, teacher=None)
    if winner is None or evaluation is None or teacher is None:
        raise RunError(f"{folder.path} has no finished student yet; resume with 'nas-distill search ... --resume'.")
    baseline = baseline_of(winner, metadata)
    uniform, gain = uniform_gain(winner, metadata, evaluation)
    split, task = evaluation.split, metadata.task
    notes = (
        []
        if split == "test"
        else ["There is no test data; validation data selected the student, so its figures are too high."]
    )
    notes += [*uniform_note(metadata), *validation_gap_note(metadata)]
    notes += describe_warm_start(metadata.warm_start)
    starts = compare_starts(records)
    if starts is not None:
        notes.append(starts)
    if metadata.block_weights is not None:
        notes.append(local_ranking(metadata.block_weights))
    guessed = constant_quality_note(metadata, records)
    if guessed is not None:
        notes.append(guessed)
    limits = Budget.restore(metadata.budget).limits
    exported = exports.students.get(winner.key)
    if exported and LATENCY in limits and limits[LATENCY].excess(exported.latency.p50_ms) > 0:
        notes.append(
            "The student's measured latency is over the budget's limit, though its predicted latency was within."
        )
    return FinalReport(
        run=str(folder.path),
        teacher=ModelResult(
            "teacher",
            evaluation=read_evaluation(evaluation.teacher, task),
            costs=teacher.costs,
            latency_p50_ms=None if exports.teacher is None else exports.teacher.p50_ms,
            latency_p95_ms=None if exports.teacher is None else exports.teacher.p95_ms,
        ),
        student=_model("student", winner, evaluation, exports.students, task),
        trial=winner.trial,
        architecture=Architecture(winner.architecture).hash,
        values=winner.architecture,
        baseline=_labels_only(baseline, evaluation, task),
        uniform=uniform,
        gain=gain,
        finalists=finalist_results(metadata),
        limits=limits,
        savings=savings(metadata, records),
        trust=rank_trust(finalist_results(metadata)),
        exports=() if exported is None else (_export(folder, winner, exported),),
        conditions=None if exported is None else exported.latency.conditions,
        notes=tuple(notes),
        split=split,
        task=task,
    )


def constant_quality_note(metadata: RunMetadata, records: Sequence[TrialRecord]) -> str | None:
    """Return a sentence on the trials that the front omits as no better than a constant answer; None without any."""
    guess = metadata.constant_quality
    complete = [record for record in records if record.state == "complete"]
    guessed = [record for record in complete if guess is not None and not record.final_quality > guess]
    if guess is None or not guessed:
        return None
    are = "is" if len(guessed) == 1 else "are"
    return (
        f"{len(guessed)} of {formatting.count(len(complete), 'complete trial')} {are} not better than a constant "
        f"answer ({formatting.percent(guess)}), so the front leaves {'it' if len(guessed) == 1 else 'them'} out."
    )


def savings(metadata: RunMetadata, records: Sequence[TrialRecord]) -> Savings:
    """Return the counts and times of a search, and the time that pruning and the teacher store saved."""
    finalists = metadata.finalists.values()
    trained = [record for record in records if record.trained]
    limits = Budget.restore(metadata.budget)

    def count(state: str) -> int:
        return sum(record.state == state and record.taken is None for record in records)

    store, timings = metadata.store, metadata.timings
    saved = None
    if store is not None and metadata.survey is not None:
        samples = metadata.survey.samples_per_step
        steps = sum(max(report.step for report in record.reports.values()) for record in trained if record.reports)
        steps += sum(entry.steps for entry in finalists if entry.taught)
        saved = max(0.0, steps * samples * store.seconds / store.samples - timings.get(Phase.TEACHER_STORE, 0.0))
    return Savings(
        complete=count("complete"),
        pruned=count("pruned"),
        failed=count("failed"),
        over_budget=count("over_budget"),
        below=sum(record.state == "over_budget" and limits.below(record.costs) for record in records),
        duplicates=count("duplicate"),
        trained_seconds=sum(record.seconds for record in trained) + sum(entry.seconds for entry in finalists),
        pruning_saved_seconds=sum(record.seconds_saved for record in trained),
        store_seconds=None if store is None else timings.get(Phase.TEACHER_STORE),
        store_saved_seconds=saved,
        wall_seconds=sum(timings.values()) if timings else None,
        phases=dict(sorted(timings.items(), key=lambda item: item[0] is Phase.OTHER)),  # the remaining time comes last
    )


def card_facts(folder: RunFolder, metadata: RunMetadata, problem: SearchProblem) -> CardFacts:
    """Return the facts of a student's card that the report does not contain."""
    config, data = problem.config, problem.data
    training = config.final.training
    optimizer = training.optimizer
    builder = problem.space.to_dict()["builder"]
    return CardFacts(
        title=f"Student of {problem.teacher.name}, from run {folder.name}",
        data=data.name,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        teacher=problem.teacher.name,
        builder=builder,
        loads_by=_loading_method(folder, metadata),
        seed=config.seed,
        samples={split: len(data.split(split)) for split in data.splits},
        class_names=data.classes,
        normalisation=data.normalisation(),
        teacher_fingerprint=problem.teacher.fingerprint,
        training={
            "loss": " + ".join(_term(term) for term in problem.terms(training).terms),
            "length": f"{training.epochs:g} epochs, batches of {training.batch_size}",
            "optimiser": f"{optimizer.name}, rate {optimizer.lr:g} (warm-up {training.warmup:g}, "
            + ("cosine to 0)" if training.decay == "cosine" else "then constant)"),
            "weights": f"averaged over the last {training.ema:.0%} of the steps",
            "views": data.views.text(),
        },
        versions=metadata.versions,
        host=None if metadata.host is None else metadata.host.processor,
    )


def _loading_method(folder: RunFolder, metadata: RunMetadata) -> Literal["builder", "graph", "own builder"]:
    """Return the way in which another program loads the run's student."""
    winner = best_finalist(metadata.finalists.values())
    spec = {} if winner is None else load_spec(folder.student(winner.key))
    if spec.get("program"):
        return "graph"
    return "builder" if spec.get("importable") else "own builder"


def _term(term: Term) -> str:
    options = [
        f"{key} {f'{value:g}' if isinstance(value, float) else value}" for key, value in term.config.options.items()
    ]
    return f"{term.weight:g} x {term.config.name}" + (f" ({', '.join(options)})" if options else "")


def _labels_only(baseline: Finalist | None, evaluation: EvaluationRecord, task: str) -> ModelResult | None:
    if baseline is None or baseline.quality is None:
        return None
    return _model(f"same architecture, {find_task(task).training_without_teacher}", baseline, evaluation, {}, task)


def _model(
    name: str, entry: Finalist, evaluation: EvaluationRecord, exports: Mapping[str, ExportRecord], task: str
) -> ModelResult:
    latency = None if entry.key not in exports else exports[entry.key].latency
    evaluated = evaluation.students.get(entry.key)
    return ModelResult(
        name,
        evaluation=None if evaluated is None else read_evaluation(evaluated, task),
        validation=entry.quality,
        costs=entry.costs,
        latency_p50_ms=None if latency is None else latency.p50_ms,
        latency_p95_ms=None if latency is None else latency.p95_ms,
    )


def _export(folder: RunFolder, winner: Finalist, exported: ExportRecord) -> ExportResult:
    parity = exported.parity
    return ExportResult(
        path=str(folder.student(winner.key) / exported.file),
        runtime=exported.runtime,
        usage=exported.usage,
        bytes=exported.bytes,
        max_abs_difference=parity.max_abs_difference,
        same_predictions=parity.same_predictions,
        count=parity.count,
        logit_scale=parity.logit_scale,
    )
