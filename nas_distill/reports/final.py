"""The report at the end of a search: student, teacher and baselines."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from nas_distill.costs.latency import LATENCY
from nas_distill.costs.registry import describe_cost
from nas_distill.reports import formatting as words
from nas_distill.reports.gain import gain_lines
from nas_distill.reports.model import FinalReport, ModelResult, ratio
from nas_distill.reports.tables import add_columns, add_row, cost_columns, new_table
from nas_distill.tasks import Metric, find_task

Cell = Callable[[ModelResult], str]
_WIDE = 3  # models of a table whose names are written in full
_NAMES = 22  # columns for the names of figures, so that a table of three models fits 80


def final_table(report: FinalReport) -> RenderableType:
    """Return the report that is shown at the end of a search."""
    table = new_table(f"Student: {student_name(report)}, architecture {report.architecture}")
    models = models_of(report)
    names = [model.name for model in models]
    if len(names) > _WIDE:  # the sentence below the table says that it is the same architecture
        names = [name.removeprefix("same architecture, ") for name in names]
    add_columns(table, [f"on {report.split} data"], names)
    table.columns[2].style = "bold"
    if report.limits:
        add_columns(table, [], ["budget"])
    for row in final_rows(report):
        add_row(table, [textwrap.fill(row[0], _NAMES), *(row[1:] if report.limits else row[1:-1])])
    lines = [Text(line) for line in (*result_lines(report), *effort_lines(report), *report.notes)]
    exports = [Text(line, overflow="fold") for line in export_lines(report)]
    return Group(table, *lines, *exports, Text(f"All results are in {report.run}.", overflow="fold"))


def student_name(report: FinalReport) -> str:
    """Return the student's name: ``trial 7``, and that it is the uniform network if it is."""
    trial = None if report.trial is None else f"trial {report.trial}"
    if report.gain is None or not report.gain.student_is_uniform:
        return trial or "uniform network"
    return f"{report.gain.over}{f' ({trial})' if trial else ''}"


def models_of(report: FinalReport) -> list[ModelResult]:
    """Return the compared models in the order of the columns; the uniform network only if it is not the student."""
    same = report.gain is not None and report.gain.student_is_uniform
    others = (report.baseline, None if same else report.uniform)
    return [report.teacher, report.student, *(model for model in others if model is not None)]


def final_rows(report: FinalReport) -> list[list[str]]:
    """Return the rows of the table: name of the figure (with its direction), one cell per model, the budget's limit.

    Rows without a figure for any model are left out.
    """
    models = models_of(report)
    rows = [
        [name, *(cell(model) for model in models), ""]
        for name, cell in (
            *((figure.title, _cell(figure)) for figure in find_task(report.task).metrics),
            (f"validation {find_task(report.task).quality_name}", lambda model: words.percent(model.validation)),
        )
    ]
    for name in dict.fromkeys(name for model in models for name in model.costs):
        label = f"{words.label(name)}, predicted" if describe_cost(name).measured else name
        limit = report.limits.get(name)
        values = [words.cost(name, model.costs.get(name)) for model in models]
        rows.append([label, *values, words.limit(name, limit) if limit else ""])
    rows.append(["latency, measured p50", *(words.cost(LATENCY, model.latency_p50_ms) for model in models), ""])
    rows.append(["latency, measured p95", *(words.cost(LATENCY, model.latency_p95_ms) for model in models), ""])
    rows.append(["speed-up, measured", *(_speed_up(report, model) for model in models), ""])
    return [row for row in rows if any(cell != words.NONE for cell in row[1:-1])]


def result_lines(report: FinalReport) -> list[str]:
    """Return sentences on the result: student and teacher, uniform network, hard labels, and the uncertainty."""
    lines = []
    student, teacher = report.student.evaluation, report.teacher.evaluation
    if student is not None and teacher is not None:
        smaller = [
            f"{words.times(shrunk)} fewer {name}"
            for name in ("flops", "params")
            if (shrunk := ratio(report.teacher.costs.get(name), report.student.costs.get(name))) and shrunk >= 1.05
        ]
        size = f" with {' and '.join(smaller)}" if smaller else ""
        what = find_task(report.task).quality_name
        many = words.count(student.count, "sample")
        known = f"{what} is known to within ±{100 * student.error:.1f} points ({many}, 95 %)"
        share = ratio(student.quality, teacher.quality)
        if share is not None:
            lines.append(f"The student keeps {words.percent(share)} of the teacher's {what}{size}; {known}.")
        else:
            pair = f"{words.percent(student.quality)}, the teacher's {words.percent(teacher.quality)}"
            lines.append(f"The student's {what} is {pair}{size}; {known}.")
    lines += [*gain_lines(report), *_baseline_line(report)]
    if report.conditions:
        lines.append(f"Latency: {report.conditions}.")
    return lines


def _baseline_line(report: FinalReport) -> list[str]:
    if report.baseline is None:
        return []
    ours, theirs = report.student.evaluation, report.baseline.evaluation
    if ours is None or theirs is None:
        return []
    gain = ours.quality - theirs.quality
    # Both were evaluated on the same samples, so this interval is wider than necessary: cautious about small gains.
    noise = math.hypot(ours.error, theirs.error)
    verdict = "a gain" if gain > noise else "a loss: it did not help" if gain < -noise else "which may be chance"
    without_teacher = find_task(report.task).training_without_teacher
    return [f"Distillation against {without_teacher}, same architecture: {words.points(gain)}, {verdict}."]


def effort_lines(report: FinalReport) -> list[str]:
    """Return sentences on what the search trained and saved, and on how well short scores ranked the finalists."""
    lines = []
    saved = report.savings
    if saved is not None:
        trained = saved.complete + saved.pruned + saved.failed
        if saved.pruning_saved_seconds > 0:
            share = saved.pruning_saved_seconds / (saved.trained_seconds + saved.pruning_saved_seconds)
            less = f"{words.percent(share, 0)} of the training ({words.duration(saved.pruning_saved_seconds)})"
            stopped = f"Pruning stopped {saved.pruned} of {words.count(trained, 'trained candidate')}"
            lines.append(f"{stopped} and saved {less}.")
        over = words.count(saved.over_budget - saved.below, "candidate")
        under = f", {saved.below} below the lower limit" if saved.below else ""
        failed = f" Failed: {saved.failed}." if saved.failed else ""
        repeats = words.count(saved.duplicates, "repeat")
        lines.append(f"Never trained: {over} over budget{under} and {repeats}.{failed}")
        if saved.store_saved_seconds is not None and saved.store_seconds is not None:
            once = f"took {words.duration(saved.store_seconds)}" if saved.store_seconds else "was done already"
            lines.append(
                f"Running the teacher once {once}; beside every student it would have taken "
                f"{words.duration(saved.store_saved_seconds)} more."
            )
        if saved.wall_seconds is not None:
            total, parts = words.durations(saved.phases or {"": saved.wall_seconds})
            listed = ", ".join(f"{name} {seconds}" for name, seconds in parts.items() if name)
            lines.append(f"Total time {total}{f': {listed}' if listed else ''}.")
    return [*lines, *trust_lines(report)]


def trust_lines(report: FinalReport) -> list[str]:
    """Return a sentence on how well short scores ranked the finalists, or on why that is unknown."""
    trust = report.trust
    if trust is None:
        return []
    if trust.finalists < 2 or trust.kendall is None:
        return ["Trust: too few finalists to measure how well short scores rank."]
    many = words.count(trust.finalists, "finalist")
    interval = (
        f"95 % interval {trust.interval[0]:.2f} to {trust.interval[1]:.2f}"
        if trust.interval
        else "too few for an interval"
    )
    line = f"Trust: short scores ranked the {many} with Kendall's tau {trust.kendall:.2f} ({interval})"
    if trust.regret is None:
        return [f"{line}."]
    if trust.regret <= 0:
        return [f"{line}; the best short score was the best student."]
    return [f"{line}; taking the best short score would have lost {100 * trust.regret:.2f} points."]


def export_lines(report: FinalReport) -> list[str]:
    """Return one sentence per exported file."""
    same = find_task(report.task).same
    return [
        f"{export.path}: {words.cost('weight_bytes', export.bytes)}, differs from PyTorch by at most "
        f"{export.max_abs_difference:.1e}"
        + (f", {same} for {words.percent(export.same_predictions)} of {export.count:,}." if same else ".")
        for export in report.exports
    ]


def _cell(figure: Metric) -> Cell:
    return lambda model: words.figure(getattr(model.evaluation, figure.field, None), figure)


def _speed_up(report: FinalReport, model: ModelResult) -> str:
    if model is report.teacher:
        return words.NONE
    return words.times(ratio(report.teacher.latency_p50_ms, model.latency_p50_ms))


def finalists_table(report: FinalReport) -> RenderableType:
    """Return a table of the finalists: short and full quality, the gain, and a mark on the chosen one."""
    table = new_table(f"Finalists, by validation {find_task(report.task).quality_name}")
    names = cost_columns((name for entry in report.finalists for name in entry.costs), report.limits)
    costs = [words.label(name) for name in names]
    add_columns(table, [], ["trial", "short", "full", "gained, points", *costs])
    for entry in sorted(report.finalists, key=lambda entry: -(entry.full or 0.0)):
        gained = words.NONE
        if entry.full is not None and entry.short is not None:
            gained = f"{100 * (entry.full - entry.short):+.2f}"
        name = "uniform" if entry.trial is None else f"{entry.trial}{', uniform' if entry.uniform else ''}"
        number = f"* {name}" if entry.chosen else name
        figures = [number, words.percent(entry.short), words.percent(entry.full), gained]
        add_row(table, [*figures, *(words.cost(name, entry.costs.get(name)) for name in names)])
    failed = [f"{entry.title.capitalize()} failed: {entry.cause}." for entry in report.finalists if entry.full is None]
    chosen = ["*: the student."] if any(entry.chosen for entry in report.finalists) else []
    return Group(table, *(Text(line, style="dim") for line in (*chosen, *failed)))
