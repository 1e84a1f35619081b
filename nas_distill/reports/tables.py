"""Terminal tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from nas_distill.costs.budget import Limit
from nas_distill.costs.latency import LATENCY
from nas_distill.reports import formatting as words
from nas_distill.reports.front_layers import within
from nas_distill.reports.model import CostRow, CostSummary, FinalistResult
from nas_distill.runs.pareto import front_records
from nas_distill.runs.records import TrialRecord
from nas_distill.spaces import SearchSpace
from nas_distill.tasks import find_task

_UNLIMITED = 1000
STATES = {
    "complete": "complete",
    "pruned": "stopped early",
    "over_budget": "outside the budget, never trained",
    "duplicate": "a repeat, never trained again",
    "failed": "failed",
    "interrupted": "interrupted",
    "running": "running",
    "uniform": "uniform network, not searched",
    "untried": "not tried by the search",
}


def cost_table(summary: CostSummary) -> RenderableType:
    """Return the survey of a search: costs of candidates, the share that fits the budget, and estimated times."""
    table = new_table(f"Space {summary.space}: {summary.size}", tightening=True)
    teacher, limits = any(row.teacher is not None for row in summary.rows), any(row.limit for row in summary.rows)
    columns = ["cheapest", "median", "largest"] + ["teacher"] * teacher + ["budget", "fits"] * limits
    add_columns(table, ["cost"], columns)
    for column in table.columns:  # on a narrow terminal only the limits wrap, between figures
        column.no_wrap = str(column.header) != "budget"
    for row in summary.rows:
        cells = [row.name + (" *" if row.objective else "")]
        cells += [words.cost(row.name, value) for value in (row.cheapest, row.median, row.largest)]
        cells += [words.cost(row.name, row.teacher)] * teacher
        if limits:
            cells += [words.limit(row.name, row.limit), _fits(row)]
        add_row(table, cells)
    return Group(table, *(Text(line) for line in _cost_lines(summary)))


def _fits(row: CostRow) -> str:
    return _share(row.fits).replace("under", "<") if row.limit else words.NONE


def _share(share: float | None) -> str:
    if share is None:
        return words.NONE
    return "under 1 %" if 0 < share < 0.01 else words.percent(share, 0)


def _cost_lines(summary: CostSummary) -> list[str]:
    sampled = f"{words.count(summary.sampled, 'candidate')} evaluated"
    sampled += f" in {words.duration(summary.seconds)}" if summary.seconds is not None else ""
    if summary.fits_all is not None:
        sampled += f": {_share(summary.fits_all)} within the budget"
    if summary.unbuildable:
        sampled += f"; the builder refused {summary.unbuildable} of them, first with: {summary.first_cause}"
    plan = f"{words.count(summary.trials, 'trial')} on {words.count(summary.workers, 'worker')}"
    if summary.search_seconds is not None:
        plan += f": at most {words.duration(summary.search_seconds)}, less what is stopped early"
    if summary.final_seconds is not None:
        plan += f"; then about {words.duration(summary.final_seconds)} of full distillation"
    lines = [f"{sampled.rstrip('.')}.", f"{plan}."]
    lines += [
        f"{row.name} is predicted, for half of the candidates to within {100 * row.error:.0f} %."
        for row in summary.rows
        if row.error is not None
    ]
    if summary.conditions:
        lines.append(f"{LATENCY}: {summary.conditions}.")
    if any(row.objective for row in summary.rows):
        lines.append("*: minimised beside quality; cheapest, median and largest are by the first of these.")
    return lines


def front_table(
    records: Sequence[TrialRecord],
    costs: Sequence[str],
    *,
    limits: Mapping[str, Limit] | None = None,
    finalists: Sequence[FinalistResult] = (),
    task: str = "classification",
    note: str | None = None,
) -> RenderableType:
    """Return the front by rising cost: trials that no other beats in quality and ``costs``; dim where over a limit."""
    front = front_records(records, costs)
    if not front:
        return Text(note or "No trial is complete yet, so there is no front.")
    names = cost_columns((name for record in front for name in record.costs), (*costs, *(limits or {})))
    full = {entry.trial: entry for entry in finalists if entry.full is not None and entry.trial is not None}
    table = new_table(f"Front: {words.count(len(front), 'trial')} that no other beats")
    over = any(not within(record.costs, limits or {}) for record in front)
    columns = ["trial", "quality", *["in full"] * bool(full), *(words.label(name) for name in names)]
    add_columns(table, [], [*columns, *["budget"] * over])
    for record in front:
        fits = within(record.costs, limits or {})
        cells = [str(record.number), words.percent(record.final_quality)]
        if full:
            entry = full.get(record.number)
            cells.append(words.NONE if entry is None else ("* " if entry.chosen else "") + words.percent(entry.full))
        cells += [words.cost(name, record.costs.get(name)) for name in names]
        if over:
            cells.append("within" if fits else "over " + _over(record.costs, limits or {}))
        add_row(table, cells, style="" if fits else "dim")
    about = f"quality: validation {find_task(task).quality_name} after the short distillation"
    about += "; in full: after the full one." if full else "."
    student = next((entry for entry in finalists if entry.chosen), None)
    if student is not None and any(record.number == student.trial for record in front):
        about += "  *: the student."
    elif student is not None:
        about += f"\nThe student, {student.title}, has {words.percent(student.full)} after full distillation."
    return Group(table, *(Text(line, style="dim") for line in (about, note) if line))


def cost_columns(known: Iterable[str], first: Iterable[str]) -> list[str]:
    """Return the costs that a table has columns for: ``first``, then the others.

    Bytes of weights are redundant beside parameters, so both are shown only if ``first`` names the bytes.
    """
    available, requested = list(dict.fromkeys(known)), list(first)
    ordered = [name for name in dict.fromkeys((*requested, *available)) if name in available]
    return [name for name in ordered if name != "weight_bytes" or name in requested or "params" not in available]


def _over(costs: Mapping[str, float], limits: Mapping[str, Limit]) -> str:
    return ", ".join(name for name, limit in limits.items() if limit.excess(costs.get(name, math.nan)) > 0)


def trial_table(record: TrialRecord) -> RenderableType:
    """Return a table of one trial: costs, qualities at rungs, the reason for its end, and parameters."""
    rows = [("trial", f"{record.number}: {STATES[record.state]}"), ("architecture", record.architecture.hash)]
    for name, cost in record.costs.items():
        over = record.violations.get(name)
        rows.append((name, words.cost(name, cost) + (f"  ({100 * over:.0f} % outside the limit)" if over else "")))
    for rung, report in record.reports.items():
        where = f"after {words.percent(report.share, 0)} of the training, {words.duration(report.seconds)}"
        rows.append((f"rung {rung}", f"{words.percent(report.quality)}  ({where})"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    for row in (*rows, *_why(record)):
        add_row(grid, row)
    if not record.params:
        return grid
    values = new_table("Parameters")
    add_columns(values, ["name", "value"], [])
    for key, setting in record.params.items():
        add_row(values, [key, str(setting)])
    return Group(grid, Text(""), values)


def _why(record: TrialRecord) -> list[tuple[str, str]]:
    rows = []
    if record.stop is not None:
        rows.append(("stopped", record.stop.reason))
        if record.stop.dominated_by is not None and record.stop.dominating_quality is not None:
            ahead = words.points(record.stop.dominating_quality - record.stop.quality)
            needed = f"{100 * record.stop.margin:.2f} points were needed"
            dominator = f"trial {record.stop.dominated_by}, ahead by {ahead} at rung {record.stop.rung} ({needed})"
            rows.append(("dominated by", dominator))
        rows.append(("saved", f"{words.duration(record.seconds_saved)} of training"))
    if record.cause:
        rows.append(("cause", record.cause))
    if record.duplicate_of is not None:
        rows.append(("duplicate of", f"trial {record.duplicate_of}"))
    if record.retry_of is not None:
        rows.append(("continues", f"trial {record.retry_of}"))
    if record.taken is not None:
        rows.append(("taken from", f"trial {record.taken.trial} of {record.taken.run}, not trained again"))
    rows.append(("proposed by", record.origin))
    return rows


class _Tightening(Table):
    """A table without gaps between columns on a terminal that is too narrow for the usual gaps."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if Measurement.get(console, options.update(max_width=_UNLIMITED), self).maximum > options.max_width:
            self.padding = 0
        return super().__rich_console__(console, options)


def new_table(title: str, *, tightening: bool = False) -> Table:
    """Return an empty table in the style of all reports.

    ``tightening``: on a narrow terminal, gaps between columns disappear before columns wrap.
    """
    text = Text(title, style="bold")
    return (_Tightening if tightening else Table)(
        title=text,
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # so that the figures of a search fit into 80 columns
    )


def add_columns(table: Table, left: Sequence[str], right: Sequence[str]) -> None:
    """Add columns of names, which do not wrap on a narrow terminal, then columns of figures, whose headers wrap."""
    for name in left:
        table.add_column(Text(name), no_wrap=True)
    for name in right:
        table.add_column(Text(name), justify="right")


def add_row(table: Table, cells: Iterable[str | Text], style: str = "") -> None:
    """Add a row; strings are shown literally (rich would read brackets as markup).

    A figure and its unit stay on one line if a narrow terminal wraps the column.
    """
    shown = (Text(_unbroken(cell)) if isinstance(cell, str) else cell for cell in cells)
    table.add_row(*shown, style=style)


def _unbroken(cell: str) -> str:
    return cell.replace(" ", "\N{NO-BREAK SPACE}") if cell[:1].isdigit() and len(cell) < 12 else cell


def space_table(space: SearchSpace) -> RenderableType:
    """Return a table of a space: its size, and its parameters with their values and conditions."""
    table = new_table(f"Space {space.name}: {space.size()}")
    for column in ("parameter", "kind", "values", "active when"):
        table.add_column(column)
    for row in space.describe():
        table.add_row(row.name, row.kind, row.values, row.when)
    lines = [Text(line) for line in (space.about, f"Builder: {space.to_dict()['builder']}") if line]
    return Group(table, *lines)
