"""The best assembly of alternatives within limits, found exactly: pure, and without any training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from nas_distill.blockwise.model import End, Model
from nas_distill.blockwise.options import Place, Selection
from nas_distill.blockwise.programme import Row
from nas_distill.common.errors import BudgetError
from nas_distill.cost.budget import Limit


def best(places: Sequence[Place], limits: Mapping[str, Limit]) -> Selection:
    """Return the selection of the lowest score within all limits.

    Raises:
        BudgetError: there is none; names the limits that cannot be met together, and how near one can get.
    """
    return diverse(places, limits, count=1)[0]


def diverse(
    places: Sequence[Place], limits: Mapping[str, Limit], *, count: int, overlap: float = 1.0
) -> list[Selection]:
    """Return up to ``count`` selections within the limits, each the best of those unlike the ones before it.

    Two are unlike if they have the same option in at most ``overlap`` of the places that count, and never in all. Fewer
    come back where there are no more. Scores rise along the list.

    Raises:
        BudgetError: see ``best``.
    """
    model = Model(places)
    counted = [index for index, place in enumerate(places) if place.counts]
    alike = min(math.floor(overlap * len(counted) + 1e-9), len(counted) - 1)
    found: list[Selection] = []
    rows: list[Row] = []
    while len(found) < count:
        selection = model.solve(rows, limits)
        if selection is None:
            break
        found.append(selection)
        if alike < 0:
            break
        rows.append(Row({model.column(index, selection.options[index]): 1.0 for index in counted}, high=float(alike)))
    if not found:
        raise BudgetError(model.why_not(limits))
    return found


def sweep(
    places: Sequence[Place], limits: Mapping[str, Limit], cost: str, points: int | Sequence[float]
) -> list[Selection]:
    """Return the front of score against ``cost`` within the limits on the other costs, from cheap to dear.

    ``points``: the upper limits on ``cost`` to solve for, or how many, at equal ratios from the cheapest selection to
    the one of the best score. None of those returned is as dear as another without a better score; a point that cannot
    be met is passed over.

    Raises:
        BudgetError: nothing meets the other limits.
    """
    others = {name: limit for name, limit in limits.items() if name != cost}
    low = limits[cost].low if cost in limits else None
    model = Model(places)
    dearest = model.solve([], others)
    cheapest = model.extreme(cost, "high", others)
    if dearest is None or cheapest is None:
        raise BudgetError(model.why_not(others))
    ends = (cheapest.costs.get(cost, 0.0), dearest.costs.get(cost, 0.0))
    highs = _between(*ends, points) if isinstance(points, int) else sorted(points)
    found: list[Selection] = []
    for high in highs:
        selection = model.solve([], {**others, cost: Limit(low, high)})
        if selection is not None:
            found.append(selection)
    return _undominated(found, cost)


def conflict(places: Sequence[Place], limits: Mapping[str, Limit]) -> tuple[End, ...]:
    """Return ends of limits that cannot be met together, though they can without any one of them; none if all can be.

    Raises:
        BudgetError: no options fit together, whatever the limits.
    """
    return Model(places).conflict(limits)


def _between(low: float, high: float, points: int) -> list[float]:
    """Return ``points`` amounts from ``low`` to ``high``, both among them, at equal ratios where ``low`` is above 0."""
    if points < 2 or high <= low:
        return [high]
    shares = [index / (points - 1) for index in range(points)]
    inner = [low * (high / low) ** share if low > 0 else low + share * (high - low) for share in shares[1:-1]]
    return [low, *inner, high]


def _undominated(selections: Iterable[Selection], cost: str) -> list[Selection]:
    front: list[Selection] = []
    for selection in sorted(selections, key=lambda one: (one.costs.get(cost, 0.0), one.score)):
        if not front or selection.score < front[-1].score:
            front.append(selection)
    return front
