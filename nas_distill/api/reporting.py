"""From what a run's journal holds to the reports that people read. Trains and measures nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from nas_distill.api.costing import LATENCY
from nas_distill.api.finish import TEACHER, baseline_of
from nas_distill.api.problem import SearchProblem
from nas_distill.common.errors import RunError
from nas_distill.cost.budget import Budget
from nas_distill.distill.objective import Term
from nas_distill.engine.finalists import Finalist, best_finalist, read_finalists
from nas_distill.engine.pricing import Pricing
from nas_distill.engine.progress import Progress
from nas_distill.engine.survey import Estimate, Survey
from nas_distill.export.student import load_spec
from nas_distill.report import words
from nas_distill.report.local_scores import local_ranking
from nas_distill.report.model import (
    CardFacts,
    CostRow,
    CostSummary,
    ExportResult,
    FinalistResult,
    FinalReport,
    ModelResult,
    ProgressView,
    Savings,
)
from nas_distill.report.starts import compare_starts
from nas_distill.report.trust import rank_trust
from nas_distill.run import facts as names
from nas_distill.run.facts import OTHER
from nas_distill.run.folder import RunFolder
from nas_distill.run.records import TrialRecord
from nas_distill.space import Architecture
from nas_distill.tasks import find_task, read_evaluation


def cost_summary(survey: Survey, estimate: Estimate, pricing: Pricing, inputs: SearchProblem) -> CostSummary:
    """Return the table that is shown before a search."""
    objectives = inputs.config.search.costs
    order = [*objectives, *(name for name in pricing.names if name not in objectives)]
    shown = [name for name in order if name in survey.cheapest.costs]
    rows = tuple(
        CostRow(
            name=name,
            cheapest=survey.cheapest.costs[name],
            median=survey.median.costs[name],
            dearest=survey.dearest.costs[name],
            teacher=pricing.teacher.get(name),
            limit=pricing.budget.limits.get(name),
            fits=survey.shares.get(name),
            objective=name in objectives,
            error=pricing.latency.error.median if name == LATENCY and pricing.latency is not None else None,
        )
        for name in shown
    )
    latency = pricing.latency
    return CostSummary(
        space=inputs.space.name,
        size=str(inputs.space.size()),
        sampled=len(survey.candidates) + len(survey.failures),
        rows=rows,
        trials=inputs.config.search.trials,
        workers=estimate.workers,
        unbuildable=len(survey.failures),
        first_cause=survey.failures[0] if survey.failures else None,
        fits_all=survey.share,
        search_seconds=None if estimate.trials is None else estimate.trials / estimate.workers,
        final_seconds=None if estimate.finalists is None else estimate.finalists / estimate.final_workers,
        conditions=latency.conditions.text() if latency is not None else None,
    )


def progress_view(phase: str, progress: Progress) -> ProgressView:
    """Return the controller's snapshot as the live view takes it."""
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


def finalist_results(facts: Mapping[str, Any]) -> tuple[FinalistResult, ...]:
    """Return the finalists of a run, the chosen one marked."""
    finalists = read_finalists(facts)
    winner = best_finalist(finalists)
    return tuple(
        FinalistResult(
            trial=entry.trial,
            costs=entry.costs,
            short=entry.short,
            full=entry.quality,
            chosen=winner is not None and entry.key == winner.key,
            cause=entry.cause,
        )
        for entry in finalists
        if entry.taught
    )


def teacher_note(facts: Mapping[str, Any]) -> list[str]:
    """Return a warning where the teacher does better on validation than on test data, beyond what chance explains.

    It has then probably seen the validation samples. The threshold is 1.5 times the 95 % interval of the difference,
    about 3 standard errors: a false warning in one of some 600 searches. Test data is only reported on here.
    """
    evaluation, teacher = facts[names.EVALUATION], facts[names.TEACHER]
    samples = evaluation.get("validation_samples")
    if evaluation["split"] != "test" or not samples:
        return []
    tested = read_evaluation(evaluation["results"][TEACHER], facts.get(names.TASK, "classification"))
    gap = teacher["validation"] - tested.quality
    if not gap > 1.5 * tested.error * math.sqrt(1 + tested.count / samples):
        return []
    return [
        f"The teacher is {100 * gap:.1f} points better on validation than on test data, beyond chance. If it "
        "was trained on the validation samples, validation figures flatter teacher and students; search with samples "
        "that it has not seen."
    ]


def final_report(folder: RunFolder, facts: Mapping[str, Any], records: Sequence[TrialRecord]) -> FinalReport:
    """Return the end of a search.

    Raises:
        RunError: the run has no finished student yet.
    """
    finalists = read_finalists(facts)
    winner = best_finalist(finalists)
    if winner is None or names.EVALUATION not in facts:
        raise RunError(f"{folder.path} has no finished student yet; 'nas-distill search ... --resume' goes on.")
    evaluation, exports = facts[names.EVALUATION], facts.get(names.EXPORTS, {})
    results = evaluation["results"]
    teacher_latency = (exports.get(TEACHER) or {}).get("latency") or {}
    baseline = baseline_of(winner, finalists)
    split, task = evaluation["split"], facts.get(names.TASK, "classification")
    notes = [] if split == "test" else ["There is no test data; validation data chose the student and flatters it."]
    notes += teacher_note(facts)
    starts = compare_starts(records)
    if starts is not None:
        notes.append(starts)
    if names.BLOCK_WEIGHTS in facts:
        notes.append(local_ranking(facts[names.BLOCK_WEIGHTS]))
    guessed = guessing_note(facts, records)
    if guessed is not None:
        notes.append(guessed)
    limits = Budget.parse(facts[names.BUDGET]).limits
    exported = exports.get(winner.key)
    if exported and LATENCY in limits and limits[LATENCY].excess(exported["latency"]["p50_ms"]) > 0:
        notes.append("The student's measured latency is over the budget's limit, though its prediction was within.")
    return FinalReport(
        run=str(folder.path),
        teacher=ModelResult(
            "teacher",
            evaluation=read_evaluation(results[TEACHER], task),
            costs=facts[names.TEACHER]["costs"],
            latency_p50_ms=teacher_latency.get("p50_ms"),
            latency_p95_ms=teacher_latency.get("p95_ms"),
        ),
        student=_student(winner, results, exported, task),
        trial=winner.trial,
        architecture=Architecture(winner.architecture).hash,
        values=winner.architecture,
        baseline=None if baseline is None or baseline.quality is None else _student(baseline, results, None, task),
        finalists=finalist_results(facts),
        limits=limits,
        savings=savings(facts, records),
        trust=rank_trust(finalist_results(facts)),
        exports=() if exported is None else (_export(folder, winner, exported),),
        conditions=None if exported is None else exported["latency"]["conditions"],
        notes=tuple(notes),
        split=split,
        task=task,
    )


def guessing_note(facts: Mapping[str, Any], records: Sequence[TrialRecord]) -> str | None:
    """Say how many trials the front leaves out because they are no better than a constant answer; None for none."""
    guess = facts.get(names.GUESS)
    complete = [record for record in records if record.state == "complete"]
    guessed = [record for record in complete if guess is not None and not record.final_quality > guess]
    if not guessed:
        return None
    are = "is" if len(guessed) == 1 else "are"
    return (
        f"{len(guessed)} of {words.count(len(complete), 'complete trial')} {are} no better than always giving the same "
        f"answer ({words.percent(guess)}), so the front leaves {'it' if len(guessed) == 1 else 'them'} out."
    )


def savings(facts: Mapping[str, Any], records: Sequence[TrialRecord]) -> Savings:
    """Return what a search did and did not have to do."""
    finalists = read_finalists(facts)
    trained = [record for record in records if record.trained]
    limits = Budget.parse(facts.get(names.BUDGET, {}))

    def count(state: str) -> int:
        return sum(record.state == state for record in records)

    store: dict[str, Any] = facts.get(names.STORE, {})
    timings: dict[str, float] = facts.get(names.TIMINGS, {})
    saved = None
    if store:
        samples = facts.get(names.COSTS_TABLE, {}).get("samples_per_step", 0)
        steps = sum(max(report.step for report in record.reports.values()) for record in trained if record.reports)
        steps += sum(entry.steps for entry in finalists if entry.taught)
        saved = max(0.0, steps * samples * store["seconds"] / store["samples"] - timings.get("teacher store", 0.0))
    return Savings(
        complete=count("complete"),
        pruned=count("pruned"),
        failed=count("failed"),
        over_budget=count("over_budget"),
        below=sum(record.state == "over_budget" and limits.below(record.costs) for record in records),
        duplicates=count("duplicate"),
        trained_seconds=sum(record.seconds for record in trained) + sum(entry.seconds for entry in finalists),
        pruning_saved_seconds=sum(record.seconds_saved for record in trained),
        store_seconds=timings.get("teacher store") if store else None,
        store_saved_seconds=saved,
        wall_seconds=sum(timings.values()) if timings else None,
        phases=dict(sorted(timings.items(), key=lambda item: item[0] == OTHER)),  # what is left over comes last
    )


def card_facts(folder: RunFolder, facts: Mapping[str, Any], inputs: SearchProblem) -> CardFacts:
    """Return what a student's card says beside the report."""
    config, data = inputs.config, inputs.data
    training = config.final.training
    optimizer = training.optimizer
    builder = inputs.space.to_dict()["builder"]
    return CardFacts(
        title=f"Student of {inputs.teacher.name}, from run {folder.name}",
        data=data.name,
        input_shape=data.input_shape,
        num_classes=data.num_classes,
        teacher=inputs.teacher.name,
        builder=builder,
        loads_by=_way_to_load(folder, facts),
        seed=config.seed,
        samples={split: len(data.split(split)) for split in data.splits},
        class_names=data.classes,
        normalisation=data.normalisation(),
        teacher_fingerprint=inputs.teacher.fingerprint,
        training={
            "loss": " + ".join(_term(term) for term in inputs.terms(training)),
            "length": f"{training.epochs:g} epochs, batches of {training.batch_size}",
            "optimiser": f"{optimizer.name}, rate {optimizer.lr:g} (warm-up {training.warmup:g}, "
            + ("cosine to 0)" if training.decay == "cosine" else "then constant)"),
            "weights": f"averaged over the last {training.ema:.0%} of the steps",
            "views": data.views.text(),
        },
        versions=facts.get(names.VERSIONS, {}),
        host=(facts.get(names.HOST) or {}).get("processor"),
    )


def _way_to_load(folder: RunFolder, facts: Mapping[str, Any]) -> Literal["builder", "graph", "own builder"]:
    """Return how another program loads the run's student."""
    winner = best_finalist(read_finalists(facts))
    spec = {} if winner is None else load_spec(folder.student(winner.key))
    if spec.get("program"):
        return "graph"
    return "builder" if spec.get("importable") else "own builder"


def _term(term: Term) -> str:
    options = [
        f"{key} {f'{value:g}' if isinstance(value, float) else value}" for key, value in term.config.options.items()
    ]
    return f"{term.weight:g} x {term.config.name}" + (f" ({', '.join(options)})" if options else "")


def _student(entry: Finalist, results: Mapping[str, Any], exported: Mapping[str, Any] | None, task: str) -> ModelResult:
    latency = exported["latency"] if exported else {}
    alone = find_task(task).training_without_teacher
    return ModelResult(
        "student" if entry.taught else f"same architecture, {alone}",
        evaluation=read_evaluation(results[entry.key], task) if entry.key in results else None,
        validation=entry.quality,
        costs=entry.costs,
        latency_p50_ms=latency.get("p50_ms"),
        latency_p95_ms=latency.get("p95_ms"),
    )


def _export(folder: RunFolder, winner: Finalist, exported: Mapping[str, Any]) -> ExportResult:
    parity = exported["parity"]
    return ExportResult(
        path=str(folder.student(winner.key) / "model.onnx"),
        format=exported["format"],
        bytes=exported["bytes"],
        max_abs_difference=parity["max_abs_difference"],
        same_predictions=parity["same_predictions"],
        count=parity["count"],
        logit_scale=parity["logit_scale"],
    )
