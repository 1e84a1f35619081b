"""Early stopping by dominance at equal training: pure functions of reported qualities and costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Report:
    """Report of trial ``number`` at a rung: its ``costs`` (lower is better) and ``quality`` (higher is better)."""

    number: int
    costs: Mapping[str, float]
    quality: float


class History(Sequence[Report]):
    """Reports at one rung in their order of arrival, with their figures as growing arrays.

    A rule reads all of them at each report. Arrays built again each time would take a search time in proportion to
    the square of its number of trials.
    """

    def __init__(self, reports: Iterable[Report] = ()) -> None:
        self._reports = list(reports)
        self._arrays: dict[tuple[str, ...], tuple[int, NDArray[np.float64]]] = {}

    def append(self, report: Report) -> None:
        """Add a report."""
        self._reports.append(report)

    def renumber(self, place: int, number: int) -> None:
        """Give the report at ``place`` another trial's number: that of the trial which continues its training."""
        self._reports[place] = replace(self._reports[place], number=number)

    def figures(self, costs: tuple[str, ...]) -> NDArray[np.float64]:
        """Return quality and the named costs of each report, [N, 1 + C]; a view that later reports do not change."""
        filled, array = self._arrays.get(costs, (0, np.empty((0, 1 + len(costs)))))
        count = len(self._reports)
        if filled < count:
            if len(array) < count:
                larger = np.empty((max(16, 2 * count), 1 + len(costs)))
                larger[:filled] = array[:filled]
                array = larger
            for place in range(filled, count):
                report = self._reports[place]
                array[place] = [report.quality, *(report.costs[name] for name in costs)]
            self._arrays[costs] = count, array
        return array[:count]

    def __len__(self) -> int:
        return len(self._reports)

    @overload
    def __getitem__(self, index: int) -> Report: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Report]: ...

    def __getitem__(self, index: int | slice) -> Report | Sequence[Report]:
        return self._reports[index]


@dataclass(frozen=True)
class Verdict:
    """Decision of a rule on a candidate at a rung.

    ``dominated_by`` is the number of the trial that dominates it, and ``dominating_quality`` that trial's quality at
    this rung, more than ``margin`` higher; None under rules that compare with no single trial. ``reason`` is a clause
    for users, empty where the candidate continues.
    """

    stop: bool
    margin: float = 0.0
    dominated_by: int | None = None
    dominating_quality: float | None = None
    reason: str = ""


CONTINUE = Verdict(stop=False)


class Rule(Protocol):
    """Rule that decides whether a candidate continues at a rung before the last."""

    def judge(self, rung: int, quality: float, costs: Mapping[str, float], history: Sequence[Report]) -> Verdict:
        """Return whether a candidate of ``costs`` that has just reported ``quality`` stops.

        ``history`` holds the reports of all others at the same rung, whatever their outcome; the verdict does not
        depend on their order.

        Raises:
            ValueError: ``quality`` is not finite (such a candidate has failed, which a rule does not decide).
        """
        ...


@dataclass(frozen=True)
class NoRule:
    """Rule that stops nothing."""

    def judge(self, rung: int, quality: float, costs: Mapping[str, float], history: Sequence[Report]) -> Verdict:
        """Let the candidate continue."""
        _finite(quality)
        return CONTINUE


@dataclass(frozen=True)
class Dominance:
    """Stop a candidate that ``min_dominators`` others, none of which costs more, beat by more than ``margin``.

    ``costs`` names the cost objectives: a dominating candidate costs at most ``1 + tolerance`` times as much in each
    (``tolerance`` 0 for exact costs, the relative error for measured ones; one figure, or one per cost). ``margin``
    (units of quality, about one standard deviation of it between seeds) is one figure, or one per rung. A candidate
    that is behind by exactly the margin continues. All continue at a rung that fewer than ``min_reports`` others have
    reached.
    """

    costs: tuple[str, ...]
    margin: float | tuple[float, ...] = 0.0
    min_dominators: int = 1
    min_reports: int = 1
    tolerance: float | Mapping[str, float] = field(default=0.0)

    def __post_init__(self) -> None:
        if not self.costs:
            raise ValueError("dominance needs at least one cost")
        if self.min_dominators < 1 or self.min_reports < 1:
            raise ValueError("min_dominators and min_reports are at least 1")

    def margin_at(self, rung: int) -> float:
        """Return the margin at a rung; the last one given holds for all rungs after it."""
        if isinstance(self.margin, tuple):
            return self.margin[min(rung, len(self.margin) - 1)]
        return self.margin

    def judge(self, rung: int, quality: float, costs: Mapping[str, float], history: Sequence[Report]) -> Verdict:
        """Compare with the reports at this rung of candidates that cost no more."""
        _finite(quality)
        reports = history if isinstance(history, History) else History(history)
        figures = reports.figures(self.costs)
        qualities = figures[:, 0]
        finite = np.isfinite(qualities)
        if finite.sum() < self.min_reports:
            return CONTINUE
        limits = [costs[name] * (1 + self._tolerance(name)) for name in self.costs]
        ahead = finite & (figures[:, 1:] <= limits).all(axis=1)
        if ahead.sum() < self.min_dominators:
            return CONTINUE
        margin = self.margin_at(rung)
        enough = np.partition(qualities[ahead], -self.min_dominators)[-self.min_dominators]
        if not enough > quality + margin:
            return CONTINUE
        # Best first; of equals the cheaper, then the earlier, so that the order of the history says nothing.
        best = sorted(
            (reports[int(place)] for place in np.flatnonzero(ahead & (qualities >= enough))),
            key=lambda report: (-report.quality, *(report.costs[name] for name in self.costs), report.number),
        )
        dominator = best[self.min_dominators - 1]
        lead = dominator.quality - quality
        return Verdict(
            stop=True,
            margin=margin,
            dominated_by=dominator.number,
            dominating_quality=dominator.quality,
            reason=f"trial {dominator.number} costs no more and is {lead:.4g} better at this rung",
        )

    def _tolerance(self, name: str) -> float:
        return self.tolerance.get(name, 0.0) if isinstance(self.tolerance, Mapping) else self.tolerance


@dataclass(frozen=True)
class QualityHalving:
    """Asynchronous successive halving on quality only: a candidate continues among the best 1/``eta`` at its rung.

    For comparison in benchmarks (ASHA, Li et al., 2020). It damages the front: cheap candidates have lower quality, so
    a quota on quality stops the cheap end of the front.
    """

    eta: float = 3.0

    def __post_init__(self) -> None:
        if not self.eta > 1:
            raise ValueError("eta is above 1")

    def judge(self, rung: int, quality: float, costs: Mapping[str, float], history: Sequence[Report]) -> Verdict:
        """Compare with all reports at this rung, whatever their costs."""
        _finite(quality)
        others = [report.quality for report in history if math.isfinite(report.quality)]
        better = sum(other > quality for other in others)
        places = (len(others) + 1) / self.eta
        if better < max(1.0, places):
            return CONTINUE
        return Verdict(stop=True, reason=f"{better} of {len(others)} others are better at this rung")


def _finite(quality: float) -> None:
    if not math.isfinite(quality):
        raise ValueError(f"a quality of {quality} cannot be judged")
