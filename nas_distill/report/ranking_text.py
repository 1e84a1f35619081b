"""Rankings of scores as Markdown: for the report of a calibration, and the page on trust."""

from __future__ import annotations

from collections.abc import Iterable

from nas_distill.report import words
from nas_distill.report.markdown import markdown_table
from nas_distill.report.scores import BAND, Difference, Ranking


def ranking_table(rankings: Iterable[Ranking | None]) -> str:
    """Return a table of how well scores rank, in the order given; what could not be said is left out."""
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
            words.NONE if entry.interval is None else f"{entry.interval[0]:.2f} to {entry.interval[1]:.2f}",
            figure(entry.band),
            f"{entry.recall:.0%}",
            f"{100 * entry.regret:.2f}",
            words.NONE if entry.seconds is None else f"{entry.seconds:.1f}",
            words.NONE if entry.share is None else f"{entry.share:.0%}",
        ]
        for entry in known
    ]
    return markdown_table(headers, rows)


def figure(value: float | None, digits: int = 2) -> str:
    """Write a figure; a dash for none."""
    return words.NONE if value is None else f"{value:.{digits}f}"


def difference_text(value: Difference | None) -> str:
    """Write a difference of two taus with its interval: ``+0.12 (+0.02 to +0.21)``."""
    if value is None:
        return words.NONE
    return f"{value.tau:+.2f} ({value.interval[0]:+.2f} to {value.interval[1]:+.2f})"
