"""Pareto fronts and their hypervolume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from nas_distill.runs.records import TrialRecord


Key = TypeVar("Key")

SPAN = 100.0  # the hypervolume covers costs from a hundredth of the reference up to the reference


def non_dominated(points: ArrayLike, maximise: Sequence[bool]) -> NDArray[np.bool_]:
    """Return which of ``points`` [N, D] no other dominates; ``maximise`` [D] gives each column's direction.

    A point dominates another when it is nowhere worse and somewhere better. Of equal points all or none are on the
    front. A row with a NaN is never on the front and dominates nothing.
    """
    losses = _losses(points, maximise)
    kept = np.logical_not(np.isnan(losses).any(axis=1))
    front: NDArray[np.bool_] = np.array(kept, dtype=bool)
    for index in np.flatnonzero(kept):
        no_worse = (losses[kept] <= losses[index]).all(axis=1)
        better = (losses[kept] < losses[index]).any(axis=1)
        front[index] = not (no_worse & better).any()
    return front


class RunningFront(Generic[Key]):
    """The points that no other dominates, kept as points are added one by one; each has a key of the caller's.

    ``maximise`` [D] gives each dimension's direction. Adding costs time in proportion to the front, not to all points.
    After additions in any order it equals the result of ``non_dominated``; points with a NaN are left out.
    """

    def __init__(self, maximise: Sequence[bool]) -> None:
        self._signs = tuple(-1.0 if up else 1.0 for up in maximise)
        self._losses: dict[Key, tuple[float, ...]] = {}

    def __len__(self) -> int:
        return len(self._losses)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._losses)

    @property
    def points(self) -> tuple[tuple[float, ...], ...]:
        """The coordinates of the front [N, D], in the order of the keys."""
        return tuple(tuple(sign * loss for sign, loss in zip(self._signs, losses)) for losses in self._losses.values())

    def add(self, key: Key, point: Sequence[float]) -> bool:
        """Add a point and return whether it is on the front; those that it dominates leave it."""
        losses = tuple(sign * float(value) for sign, value in zip(self._signs, point, strict=True))
        if any(math.isnan(loss) for loss in losses) or any(
            _dominates(other, losses) for other in self._losses.values()
        ):
            return False
        self._losses = {name: other for name, other in self._losses.items() if not _dominates(losses, other)}
        self._losses[key] = losses
        self._points = tuple(
            tuple(sign * loss for sign, loss in zip(self._signs, found)) for found in self._losses.values()
        )
        return True


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other))


def hypervolume(points: ArrayLike, reference: ArrayLike, maximise: Sequence[bool]) -> float:
    """Return the volume between ``reference`` [D] and what ``points`` [N, D] dominate; higher is better.

    Exact for any D, by slicing along the last dimension (fast for 2 and 3). Points that are no better than the
    reference in some column, and rows with NaN, add nothing. No points: 0.
    """
    losses = _losses(points, maximise)
    corner = _losses(np.atleast_2d(np.asarray(reference, dtype=float)), maximise)[0]
    losses = losses[(losses < corner).all(axis=1)]  # false for NaN
    return _volume(losses, corner)


def front_records(
    records: Iterable[TrialRecord],
    costs: Sequence[str],
    *,
    quality: Callable[[TrialRecord], float] = lambda record: record.final_quality,
) -> list[TrialRecord]:
    """Return the completed candidates that no other beats in quality and ``costs``, by rising first cost."""
    usable = [
        record for record in records if record.state == "complete" and all(name in record.costs for name in costs)
    ]
    if not usable:
        return []
    points = [[quality(record), *(record.costs[name] for name in costs)] for record in usable]
    mask = non_dominated(points, [True] + [False] * len(costs))
    front = [record for record, keep in zip(usable, mask) if keep]
    return sorted(front, key=lambda record: (*(record.costs[name] for name in costs), record.number))


def front_hypervolume(
    records: Iterable[TrialRecord], costs: Sequence[str], reference: Mapping[str, float], *, span: float = SPAN
) -> float:
    """Return the normalised hypervolume of the completed candidates, in [0, 1]; higher is better.

    ``reference`` gives each cost's largest value that counts (the budget's limit, or the teacher's cost). Costs are
    taken on a log scale from ``reference / span`` to ``reference``, quality (a share of 1) as it is with 0 as its
    reference. With one cost the figure reads: the mean, over budgets spread log-evenly between ``reference / span`` and
    ``reference``, of the best quality that the run has within that budget. Comparable between runs of one reference.
    """
    points = [
        [record.final_quality, *(record.costs[name] for name in costs)]
        for record in records
        if record.state == "complete" and all(name in record.costs for name in costs)
    ]
    return hypervolume_of(points, [reference[name] for name in costs], span=span)


def hypervolume_of(points: Sequence[Sequence[float]], reference: Sequence[float], *, span: float = SPAN) -> float:
    """Return the value of ``front_hypervolume`` for rows of quality and costs; ``reference`` is by cost."""
    if not len(points):
        return 0.0
    array = np.asarray(points, dtype=float)
    lowest = np.asarray(reference, dtype=float) / span
    scaled = np.log(np.maximum(array[:, 1:], lowest) / lowest) / np.log(span)
    quality = np.clip(array[:, :1], 0.0, 1.0)
    dimensions = len(reference)
    return hypervolume(np.hstack([quality, scaled]), [0.0] + [1.0] * dimensions, [True] + [False] * dimensions)


def _losses(points: ArrayLike, maximise: Sequence[bool]) -> NDArray[np.float64]:
    array = np.asarray(points, dtype=float).reshape(-1, len(maximise))
    return array * np.where(np.asarray(maximise, dtype=bool), -1.0, 1.0)


def _volume(losses: NDArray[np.float64], corner: NDArray[np.float64]) -> float:
    if not len(losses):
        return 0.0
    if losses.shape[1] == 1:
        return float(corner[0] - losses[:, 0].min())
    losses = losses[non_dominated(losses, [False] * losses.shape[1])]
    losses = losses[np.argsort(losses[:, -1], kind="stable")]
    heights = np.append(losses[1:, -1], corner[-1]) - losses[:, -1]
    # Sweep the last dimension: between two neighbouring heights the cross-section is what the points so far dominate.
    total = 0.0
    for index, height in enumerate(heights):
        if height > 0:
            total += float(height) * _volume(losses[: index + 1, :-1], corner[:-1])
    return total
