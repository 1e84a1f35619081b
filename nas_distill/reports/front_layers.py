"""Layers of a front plot: trials sorted by how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nas_distill.costs.budget import Limit
from nas_distill.runs.records import TrialRecord

Point = tuple[float, float]


@dataclass(frozen=True)
class FrontLayers:
    """Points (cost, quality) of one cost; quality is a share, higher is better.

    Attributes:
        fitting: complete trials within every limit.
        beyond: complete trials over some limit, which exist where the budget was changed after the search.
        pruned: stopped trials, at the quality of the last rung they reached.
        untrained: costs of candidates over budget, which have no quality.
        failed: costs of trials that failed.
        front: complete trials within every limit that are better than all cheaper ones, by rising cost.
        front_beyond: the continuation of ``front`` without limits, from its last point on.
    """

    fitting: tuple[Point, ...]
    beyond: tuple[Point, ...]
    pruned: tuple[Point, ...]
    untrained: tuple[float, ...]
    failed: tuple[float, ...]
    front: tuple[Point, ...]
    front_beyond: tuple[Point, ...]


def front_layers(
    records: Iterable[TrialRecord], cost: str, limits: Mapping[str, Limit], guess: float | None = None
) -> FrontLayers:
    """Return trials by layer; those without a finite, positive ``cost`` are left out (the axis is logarithmic).

    A front holds only trials that are better than ``guess``, the quality of a constant answer.
    """
    least = -math.inf if guess is None else guess
    fitting: list[Point] = []
    beyond: list[Point] = []
    pruned: list[Point] = []
    untrained: list[float] = []
    failed: list[float] = []
    for record in records:
        price = record.costs.get(cost, math.nan)
        if not (math.isfinite(price) and price > 0):
            continue
        quality = record.quality
        if record.state == "over_budget":
            untrained.append(price)
        elif record.state == "failed":
            failed.append(price)
        elif quality is not None and math.isfinite(quality):
            if record.state == "complete":
                (fitting if within(record.costs, limits) else beyond).append((price, quality))
            elif record.state == "pruned":
                pruned.append((price, quality))
    front = envelope([point for point in fitting if point[1] > least])
    best = front[-1][1] if front else least
    rest = tuple(point for point in envelope([*front, *beyond]) if point[1] > best)
    return FrontLayers(
        tuple(fitting), tuple(beyond), tuple(pruned), tuple(untrained), tuple(failed), front, (*front[-1:], *rest)
    )


def within(costs: Mapping[str, float], limits: Mapping[str, Limit]) -> bool:
    """Return whether ``costs`` meet every limit; an unknown cost meets none."""
    return all(limit.excess(costs.get(name, math.nan)) == 0 for name, limit in limits.items())


def envelope(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points that are better than every point of equal or lower cost, by rising cost."""
    found: list[Point] = []
    for price, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or quality > found[-1][1]:
            found.append((price, quality))
    return tuple(found)


def quality_range(layers: Sequence[FrontLayers], others: Sequence[float]) -> tuple[float, float]:
    """Return the range of the quality axis: complete trials and ``others``, with a margin.

    Stopped trials may be far below; they do not extend the range, because the front would be squeezed at the top.
    """
    main = [quality for layer in layers for _, quality in (*layer.fitting, *layer.beyond)] + list(others)
    stopped = [quality for layer in layers for _, quality in layer.pruned]
    main = main or stopped or [0.0, 1.0]
    low, high = min(main), max(main)
    room = (high - low) or 0.05
    floor = min([low, *stopped])
    return max(floor, low - 0.3 * room) - 0.1 * room, high + 0.08 * room


@dataclass(frozen=True)
class DominatorRow:
    """Trials that one trial stopped by dominating them: ``stops`` by rung, and the ``seconds_saved``.

    ``costs`` and ``quality`` (the last one) are its own.
    """

    number: int
    costs: Mapping[str, float]
    quality: float | None
    stops: Mapping[int, int]
    seconds_saved: float

    @property
    def total(self) -> int:
        """The number of trials that it stopped."""
        return sum(self.stops.values())


def dominator_rows(records: Sequence[TrialRecord]) -> list[DominatorRow]:
    """Return one row per trial that dominated another and so stopped it, by falling number of stops."""
    by_number = {record.number: record for record in records}
    stops: dict[int, dict[int, int]] = {}
    saved: dict[int, float] = {}
    for record in records:
        if record.stop is not None and record.stop.dominated_by is not None:
            rungs = stops.setdefault(record.stop.dominated_by, {})
            rungs[record.stop.rung] = rungs.get(record.stop.rung, 0) + 1
            saved[record.stop.dominated_by] = saved.get(record.stop.dominated_by, 0.0) + record.seconds_saved
    rows = []
    for number, rungs in stops.items():
        dominator = by_number.get(number)
        costs, quality = (dominator.costs, dominator.quality) if dominator else ({}, None)
        rows.append(DominatorRow(number, costs, quality, dict(sorted(rungs.items())), saved[number]))
    return sorted(rows, key=lambda row: (-row.total, row.number))
