"""Calibration rankings as Markdown and as a plot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nas_distill.calibration.scores import BAND, Difference, Ranking, Score, Study, rank
from nas_distill.reports import formatting
from nas_distill.reports.formatting import markdown_table
from nas_distill.reports.plots import Handles, finish, new_figure, write_empty


def ranking_table(rankings: Iterable[Ranking | None]) -> str:
    """Return a table of rankings in the given order; those that are None are left out."""
    known = [entry for entry in rankings if entry is not None]
    headers = [
        "score", "networks", "τ", "95 % interval", f"τ within {BAND}x FLOPs", "best fifth found", "regret, points",
        "seconds", "of a full one",
    ]  # fmt: skip
    rows = [
        [
            entry.name,
            entry.count,
            figure(entry.tau),
            formatting.NONE if entry.interval is None else f"{entry.interval[0]:.2f} to {entry.interval[1]:.2f}",
            figure(entry.band),
            f"{entry.recall:.0%}",
            f"{100 * entry.regret:.2f}",
            formatting.NONE if entry.seconds is None else f"{entry.seconds:.1f}",
            formatting.NONE if entry.share is None else f"{entry.share:.0%}",
        ]
        for entry in known
    ]
    return markdown_table(headers, rows)


def figure(value: float | None, digits: int = 2) -> str:
    """Format a figure; a dash for None."""
    return formatting.NONE if value is None else f"{value:.{digits}f}"


def difference_text(value: Difference | None) -> str:
    """Format a difference of two taus with its interval: ``+0.12 (+0.02 to +0.21)``."""
    if value is None:
        return formatting.NONE
    return f"{value.tau:+.2f} ({value.interval[0]:+.2f} to {value.interval[1]:+.2f})"


def ranking_figure(
    study: Study, scores: Sequence[Score], *, title: str, quality: str = "validation accuracy"
) -> Figure:
    """Draw full quality (vertical) over each of ``scores`` (qualities), one panel per score, one dot per network.

    Colour is cost (FLOPs, logarithmic). Bars span the seeds of the full distillation.
    """
    figure = new_figure((4.2 * max(1, len(scores)) + 0.8, 5.0))
    panels = figure.subplots(1, max(1, len(scores)), sharey=True, squeeze=False)[0]
    full, seeds = study.full_quality(), np.array(list(study.target.values()))
    handles: Handles = {}
    drawn = None
    for axes, score in zip(panels, scores):
        short = np.mean(list(score.values.values()), axis=0)
        known = np.isfinite(short) & np.isfinite(full)
        if not known.any():
            write_empty(axes, "nothing has been trained")
            continue
        low, high = seeds[:, known].min(axis=0), seeds[:, known].max(axis=0)
        reach = [full[known] - low, high - full[known]]
        axes.errorbar(short[known], full[known], yerr=reach, fmt="none", ecolor="#BBBBBB", elinewidth=1, zorder=2)
        drawn = axes.scatter(
            short[known], full[known], c=study.flops[known], s=44, cmap="viridis", edgecolors="white", linewidths=0.6,
            norm=LogNorm(float(study.flops.min()), float(study.flops.max() * 1.0001)), zorder=3,
        )  # fmt: skip
        found = rank(study, score)
        tau = "" if found is None or found.tau is None else f": τ = {found.tau:.2f}"
        axes.set_title(f"{score.name}{tau}", loc="left", fontsize=12)
        axes.set_xlabel(f"{quality} after the short run")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    panels[0].set_ylabel("after full distillation")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    finish(figure, title, handles)
    if drawn is not None:
        figure.colorbar(drawn, ax=list(panels), label="FLOPs (multiply-adds)", pad=0.02)
    return figure
