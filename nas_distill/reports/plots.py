"""Plots of a run. Only plot modules import matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator, PercentFormatter

from nas_distill.costs.budget import Limit
from nas_distill.costs.registry import describe_cost
from nas_distill.reports import formatting as words
from nas_distill.reports.front_layers import FrontLayers, Point, dominator_rows, front_layers, quality_range
from nas_distill.reports.importance import ImportanceReport
from nas_distill.reports.model import FinalistResult, ModelResult
from nas_distill.runs.records import TrialRecord
from nas_distill.utils.errors import RunError
from nas_distill.utils.files import atomic_path

BLUE, SKY, GREEN, ORANGE, RED, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
INK, GREY, PALE = "#222222", "#7F7F7F", "#DDDDDD"
SIZE, DPI, NOTEBOOK_DPI = (12.0, 8.0), 100, 72
LIMIT = "limit"  # gid of the labels of limits

Handles = dict[str, Line2D]


class Picture(Figure):
    """A figure that a notebook displays as the result of a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=NOTEBOOK_DPI, metadata={"Software": None})
        return stream.getvalue()


def front_figure(
    records: Sequence[TrialRecord],
    *,
    costs: Sequence[str],
    limits: Mapping[str, Limit] | None = None,
    teacher: ModelResult | None = None,
    finalists: Sequence[FinalistResult] = (),
    baseline: ModelResult | None = None,
    title: str = "",
    quality: str = "validation accuracy",
    guess: float | None = None,
) -> Figure:
    """Draw quality (higher is better) over each of ``costs`` (logarithmic, lower is better), one panel per cost.

    Complete trials are dots, joined by steps on the front; stopped trials are hollow, at the quality where they
    stopped; candidates over budget have no quality and are ticks at the bottom. ``finalists`` are stars, with an arrow
    from short to full distillation; ``teacher`` and ``baseline`` are drawn at their validation quality. Trials not
    better than ``guess``, the quality of a constant answer, are not on the front.
    """
    limits = limits or {}
    figure = new_figure(SIZE)
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    layers = [front_layers(records, cost, limits, guess) for cost in costs]
    others = [value for entry in finalists for value in (entry.short, entry.full) if value is not None]
    others += [model.validation for model in (teacher, baseline) if model and model.validation is not None]
    low, high = quality_range(layers, [value for value in others if math.isfinite(value)])
    handles: Handles = {}
    for axes, cost, layer in zip(panels, costs, layers):
        axes.set_ylim(low, high)
        _cost_axis(axes, cost, layer, limits.get(cost), finalists, teacher)
        _limit(axes, cost, limits.get(cost))
        _trials(axes, layer, low, handles)
        _finalists(axes, cost, finalists, baseline, handles)
        _teacher(axes, cost, teacher)
    if not any(layer.fitting or layer.beyond or layer.pruned for layer in layers):
        write_empty(panels[0], "nothing has been trained yet")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    panels[0].set_ylabel(quality)
    finish(figure, title or "Quality by cost", handles)
    figure.draw_without_rendering()  # labels have their extents only once the figure is laid out
    for axes, cost in zip(panels, costs):
        _arrange_labels(axes, cost, limits.get(cost))
    return figure


def _arrange_labels(axes: Axes, cost: str, limit: Limit | None) -> None:
    """Turn labels that leave the panel to the other side, and join those of two limits that are too close."""
    ends = [] if limit is None else [end for end in (limit.high, limit.low) if end]
    labels = [label for label in axes.texts if isinstance(label, Annotation) and label.get_text()]
    of_limits = [label for label in labels if label.get_gid() == LIMIT]
    for label in labels:
        if label not in of_limits:
            _fit(axes, label, ())
    fits = [_fit(axes, label, [end for end in ends if end != label.xy[0]]) for label in of_limits]
    if limit is not None and len(of_limits) == 2 and not all(fits):
        for label, other, side in zip(of_limits, reversed(of_limits), ("left", "right")):
            label.set_text(limit.text(cost))
            if label.get_horizontalalignment() != side:
                _turn(label)
            if _is_clear(axes, label, ends):
                other.remove()
                return


def _fit(axes: Axes, label: Annotation, lines: Sequence[float]) -> bool:
    """Turn a label to the other side of its point if that is needed and enough; return whether the label is clear."""
    if _is_clear(axes, label, lines):
        return True
    _turn(label)
    if _is_clear(axes, label, lines):
        return True
    _turn(label)
    return False


def _turn(label: Annotation) -> None:
    shift, height = label.xyann
    label.xyann = (-shift, height)
    label.set_horizontalalignment("left" if label.get_horizontalalignment() == "right" else "right")


def _is_clear(axes: Axes, label: Annotation, lines: Sequence[float]) -> bool:
    """Return whether a label is within its panel and crosses no vertical line at the costs ``lines``."""
    box = label.get_window_extent()
    crossed = [axes.transData.transform((line, axes.get_ylim()[0]))[0] for line in lines]
    return bool(
        axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and not any(box.x0 < line < box.x1 for line in crossed)
    )


def _trials(axes: Axes, layer: FrontLayers, low: float, handles: Handles) -> None:
    solid: dict[str, Any] = {"mec": "white", "mew": 0.6, "zorder": 3}
    if len(layer.front_beyond) > 1:
        axes.plot(*zip(*layer.front_beyond), drawstyle="steps-post", color=ORANGE, lw=1.5, ls=(0, (2, 2)), zorder=3)
    step: dict[str, Any] = {**solid, "zorder": 4, "drawstyle": "steps-post"}
    _plot(axes, layer.front, "front within budget", handles, marker="o", ms=9, color=BLUE, lw=2, **step)
    rest = [point for point in layer.fitting if point not in layer.front]
    _plot(axes, rest, "complete", handles, marker="o", ms=7, color=SKY, ls="none", **solid)
    over = "complete, but over this budget"
    _plot(axes, layer.beyond, over, handles, marker="s", ms=6.5, color=ORANGE, ls="none", **solid)
    hollow: dict[str, Any] = {"ls": "none", "mfc": "none", "mec": GREY, "mew": 1.2, "ms": 6, "zorder": 2}
    stopped = f"stopped early, where it stopped ({len(layer.pruned)})"
    _plot(axes, [point for point in layer.pruned if point[1] >= low], stopped, handles, marker="o", **hollow)
    below = [(price, low) for price, quality in layer.pruned if quality < low]
    _plot(axes, below, "stopped, below this range", handles, marker="v", clip_on=False, **hollow)
    ticks: dict[str, Any] = {"marker": "|", "ms": 13, "mew": 1.3, "ls": "none", "alpha": 0.8, "zorder": 3}
    for name, prices, colour in (("over budget, never trained", layer.untrained, RED), ("failed", layer.failed, INK)):
        at_bottom = axes.get_xaxis_transform()
        points = [(price, 0.013) for price in prices]
        _plot(axes, points, f"{name} ({len(prices)})", handles, color=colour, transform=at_bottom, **ticks)


def _finalists(
    axes: Axes, cost: str, finalists: Sequence[FinalistResult], baseline: ModelResult | None, handles: Handles
) -> None:
    for entry in finalists:
        price, full, short = entry.costs.get(cost), entry.full, entry.short
        if price is None or full is None:
            continue
        if short is not None and math.isfinite(short):
            arrow = {"arrowstyle": "-|>", "color": GREEN, "lw": 1.4, "shrinkA": 5, "shrinkB": 7}
            axes.annotate("", xy=(price, full), xytext=(price, short), arrowprops=arrow, zorder=5)
        label = "after full distillation (from its short score)"
        colour = GREEN
        if entry.uniform:
            label, colour = "uniform network (no search)", SKY
        star: dict[str, Any] = {"marker": "*", "ms": 19 if entry.chosen else 13, "mec": INK, "mew": 0.7, "zorder": 7}
        _plot(axes, [(price, full)], label, handles, color=colour, ls="none", **star)
        if entry.chosen:
            _label(
                axes, f"student {words.percent(full, 1)}", (price, full), (-9, 5), "right", color=GREEN, weight="bold"
            )
            if baseline is not None and baseline.validation is not None:
                point = (price, baseline.validation)
                style: dict[str, Any] = {"marker": "X", "ms": 9, "color": PURPLE, "mec": INK, "mew": 0.6, "zorder": 6}
                _plot(axes, [point], f"the student's architecture on {baseline.name}", handles, ls="none", **style)


def _cost_axis(
    axes: Axes,
    cost: str,
    layer: FrontLayers,
    limit: Limit | None,
    finalists: Sequence[FinalistResult],
    teacher: ModelResult | None,
) -> None:
    prices = [price for price, _ in (*layer.fitting, *layer.beyond, *layer.pruned)]
    prices += [*layer.untrained, *layer.failed, *(entry.costs[cost] for entry in finalists if cost in entry.costs)]
    prices += [end for end in ((limit.low, limit.high) if limit else ()) if end]
    low, high = (min(prices), max(prices)) if prices else (1.0, 10.0)
    theirs = teacher.costs.get(cost) if teacher else None
    if theirs is not None and high < theirs <= 100 * high:
        high = theirs
    room = (high / low) ** 0.05 if high > low else 2.0
    axes.set_xscale("log")
    axes.set_xlim(low / room, high * room)
    steps = (1.0, 2.0, 5.0) if high / low < 100 else (1.0, 3.0) if high / low < 1e4 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words.cost(cost, value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(describe_cost(cost).axis)


def _limit(axes: Axes, cost: str, limit: Limit | None) -> None:
    if limit is None:
        return
    left, right = axes.get_xlim()
    middle = math.sqrt(left * right)
    # At different heights and towards the middle of the panel, so that labels do not overlap.
    for end, outer, side, height in ((limit.high, right, "at most", 24), (limit.low, left, "at least", 42)):
        if end:
            axes.axvspan(*sorted((end, outer)), color=RED, alpha=0.07, lw=0, zorder=0)
            axes.axvline(end, color=RED, lw=1.5, zorder=1)
            where, (shift, ha) = (end, axes.get_ylim()[0]), ((5, "left") if end < middle else (-5, "right"))
            _label(axes, f"{side} {words.cost(cost, end)}", where, (shift, height), ha, color=RED, gid=LIMIT)


def _teacher(axes: Axes, cost: str, teacher: ModelResult | None) -> None:
    if teacher is None or teacher.validation is None:
        return
    axes.axhline(teacher.validation, color=INK, lw=1.1, ls=(0, (5, 4)), zorder=1)
    price = teacher.costs.get(cost)
    left, right = axes.get_xlim()
    text = f"teacher {words.percent(teacher.validation, 1)}"
    if price is not None and left <= price <= right:
        axes.plot([price], [teacher.validation], marker="D", ms=9, color=INK, zorder=6)
        _label(axes, f"{text}\n{words.cost(cost, price)}", (price, teacher.validation), (-9, -7), "right", va="top")
    else:
        extra = f", {words.cost(cost, price)}" if price is not None else ""
        _label(axes, text + extra, (left, teacher.validation), (6, 4), "left")


def rungs_figure(
    records: Sequence[TrialRecord],
    *,
    title: str = "",
    quality: str = "validation accuracy",
    highlight: int | None = None,
) -> Figure:
    """Draw each trial's quality (higher is better) over the share of its training, with a cross where it was stopped.

    ``highlight`` is the number of a trial to draw in bold, such as the student's.
    """
    figure = new_figure(SIZE)
    axes = figure.subplots()
    handles: Handles = {}
    for record in sorted(records, key=lambda record: record.number == highlight):
        points = [(report.share, report.quality) for report in record.reports.values() if math.isfinite(report.quality)]
        if record.number == highlight:
            _plot(axes, points, f"trial {record.number}", handles, marker="o", ms=7, color=GREEN, lw=3, zorder=4)
        elif record.state == "complete":
            _plot(axes, points, "complete", handles, marker="o", ms=4, color=BLUE, lw=1.2, alpha=0.6, zorder=3)
        else:
            _plot(axes, points, "", handles, color=GREY, lw=1, alpha=0.6, zorder=2)
        if record.state == "pruned":
            _plot(axes, points[-1:], "stopped", handles, marker="x", ms=6, mew=1.5, color=RED, ls="none", zorder=3)
    shares = sorted({report.share for record in records for report in record.reports.values()})
    axes.set_xscale("log")
    axes.set_xticks(shares, [words.percent(share, 0) for share in shares], minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("share of the short distillation")
    axes.set_ylabel(quality)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    finish(figure, title or "Quality rung by rung", handles)
    return figure


def dominator_figure(records: Sequence[TrialRecord], *, cost: str, most: int = 15, title: str = "") -> Figure:
    """Draw how many trials were stopped by each trial that dominates them, by rung."""
    rows = dominator_rows(records)[:most]
    figure = new_figure((SIZE[0], 2.4 + 0.38 * max(len(rows), 3)))
    axes = figure.subplots()
    rungs = sorted({rung for row in rows for rung in row.stops})
    palette = [ORANGE, SKY, GREEN, PURPLE, BLUE]
    starts = [0] * len(rows)
    for index, rung in enumerate(rungs):
        counts = [row.stops.get(rung, 0) for row in rows]
        colour = palette[index % len(palette)]
        bars = axes.barh(range(len(rows)), counts, left=starts, color=colour, height=0.7, label=f"at rung {rung}")
        axes.bar_label(bars, [str(count) if count else "" for count in counts], label_type="center", color=INK)
        starts = [start + count for start, count in zip(starts, counts)]
    for place, row in enumerate(rows):
        saved = f"saved {words.duration(row.seconds_saved)} of training"
        axes.annotate(saved, (row.total, place), (6, 0), textcoords="offset points", va="center", color=GREY)
    names = [
        f"trial {row.number}  {words.cost(cost, row.costs.get(cost))}  {words.percent(row.quality, 1)}" for row in rows
    ]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, max([row.total for row in rows], default=1) * 1.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trials stopped")
    if not rows:
        write_empty(axes, "nothing was stopped")
    elif len(rungs) > 1:
        axes.legend(frameon=False, loc="lower right")
    finish(figure, title or "Stopped trials by the trial that dominates them", {}, bars=True)
    return figure


def importance_figure(report: ImportanceReport, *, most: int = 15, title: str = "") -> Figure:
    """Draw the importance of each parameter for quality, and for the part of quality that cost does not explain."""
    rows = report.rows[:most]
    figure = new_figure((SIZE[0], 2.6 + 0.5 * max(len(rows), 3)))
    axes = figure.subplots()
    positions = range(len(rows))
    for shift, values, colour, name in (
        (-0.19, [row.quality for row in rows], BLUE, "quality"),
        (0.19, [row.beyond_cost for row in rows], ORANGE, f"quality beyond what {report.cost} explains"),
    ):
        bars = axes.barh([position + shift for position in positions], values, height=0.36, color=colour, label=name)
        axes.bar_label(bars, [words.percent(value, 0) for value in values], padding=4, color=GREY, fontsize=10)
    axes.set_yticks(list(positions), [row.parameter for row in rows])
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlim(0, max([0.05, *(max(row.quality, row.beyond_cost) for row in rows)]) * 1.12)
    found = [words.percent(max(share, 0), 0) for share in (report.explained, report.explained_beyond_cost)]
    basis = f"{report.trials} trials at rung {report.rung}. Parameters predict {found[0]} of the variance of quality"
    basis += (
        f"; {report.cost} explains {words.percent(report.explained_by_cost, 0)}, of the rest they predict {found[1]}."
    )
    if report.explained < 0.1:
        basis += "\nThat is too little for these bars to be meaningful."
    axes.set_xlabel(f"share of variance lost when the parameter is shuffled\n{basis}")
    axes.legend(frameon=False, loc="lower right")
    finish(figure, title or "Importance of parameters", {}, bars=True)
    return figure


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PNG atomically and return the path.

    Raises:
        RunError: the file cannot be written.
    """
    path = Path(path)
    try:
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path


def new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure of ``size`` in inches, with its own canvas."""
    figure = Picture(figsize=size, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    FigureCanvasAgg(figure)
    return figure


def _plot(axes: Axes, points: Sequence[Point], label: str, handles: Handles, **style: Any) -> None:
    if points:
        (line,) = axes.plot(*zip(*points), **style)
        if label:
            handles.setdefault(label, line)


def _label(axes: Axes, text: str, where: Point, shift: tuple[float, float], ha: str, **style: Any) -> None:
    """Write text beside a point, with a white edge, so that it is readable over other marks."""
    edge = [withStroke(linewidth=3, foreground="white")]
    style = {"color": INK, "zorder": 8, **style}
    axes.annotate(text, where, shift, textcoords="offset points", ha=ha, path_effects=edge, **style)


def write_empty(axes: Axes, text: str) -> None:
    """Write the reason for an empty panel into its middle."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY, fontsize=13)


def finish(figure: Figure, title: str, handles: Handles, *, bars: bool = False) -> None:
    """Add grid, title and legend to a figure."""
    for axes in figure.axes:
        axes.grid(True, axis="x" if bars else "both", color=PALE, lw=0.7, zorder=0)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=11)
        axes.xaxis.label.set_fontsize(12)
        axes.yaxis.label.set_fontsize(12)
    figure.suptitle(title, x=0.012, ha="left", fontsize=15, fontweight="bold", color=INK)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", ncols=3, frameon=False, fontsize=11)
