"""Integer programs over block alternatives, solved exactly by HiGHS."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from nas_distill.blockwise.alternatives import Option, Place, Selection
from nas_distill.costs.budget import Limit
from nas_distill.costs.registry import format_cost
from nas_distill.utils.errors import BudgetError

_ROW_SPAN, _GOAL_SPAN = 1e2, 1e4
"""The solver's tolerances are absolute (1e-6), so sums of anything but ones are scaled to these largest terms."""


@dataclass(frozen=True)
class Row:
    """``low <= sum of coefficient * variable <= high``; None leaves an end open."""

    terms: Mapping[int, float]
    low: float | None = None
    high: float | None = None


class Programme:
    """``variables`` binaries, and the rows that hold for every question."""

    def __init__(self, variables: int, rows: Sequence[Row]) -> None:
        self._variables = variables
        self._rows = list(rows)

    def minimise(self, objective: Mapping[int, float], rows: Sequence[Row]) -> list[int] | None:
        """Return which variables are 1 at the minimum of ``objective``, ascending; None if nothing meets all rows.

        The minimum is proven, not approached.

        Raises:
            BudgetError: the solver gives up.
        """
        goal = np.zeros(self._variables)
        goal[list(objective)] = list(objective.values())
        largest = float(np.abs(goal).max(initial=0.0))
        with no_output():
            solved = milp(
                goal * (_GOAL_SPAN / largest) if largest else goal,
                integrality=np.ones(self._variables),
                bounds=Bounds(0, 1),
                constraints=self._constraints([*self._rows, *rows]),
                options={"mip_rel_gap": 0.0},
            )
        if solved.status == 2:
            return None
        if solved.status != 0:
            raise BudgetError(f"the integer programme could not be solved ({str(solved.message).strip().rstrip('.')}).")
        return np.flatnonzero(solved.x > 0.5).tolist()

    def _constraints(self, rows: Sequence[Row]) -> LinearConstraint:
        values: list[float] = []
        columns: list[int] = []
        starts = [0]
        lows, highs = [], []
        for row in rows:
            sizes = {abs(value) for value in row.terms.values()} - {0.0}
            scale = 1.0 if sizes <= {1.0} else _ROW_SPAN / max(sizes)
            columns.extend(row.terms)
            values.extend(value * scale for value in row.terms.values())
            starts.append(len(columns))
            lows.append(-np.inf if row.low is None else row.low * scale)
            highs.append(np.inf if row.high is None else row.high * scale)
        matrix = csr_array((values, columns, starts), shape=(len(rows), self._variables))
        return LinearConstraint(matrix, lows, highs)


@contextmanager
def no_output() -> Iterator[None]:
    """Keep from this process's standard output whatever is written to it below Python.

    HiGHS has a print of its own that no option turns off, and that would be in the middle of a command's JSON.
    """
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        with suppress(AttributeError, OSError, TypeError):  # where C's own buffers cannot be reached
            ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


End = tuple[str, Literal["low", "high"]]
"""One end of the limit on a cost."""


class Model:
    """The integer programme of some places: a binary for each option, and one for each width of each shared group."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self._columns: dict[tuple[int, int], int] = {}
        for place, content in enumerate(places):
            usable = [index for index, option in enumerate(content.options) if math.isfinite(option.score)]
            if not usable:
                raise BudgetError(f"nothing can be assembled: '{content.name}' has no alternative with a finite score.")
            for index in usable:
                self._columns[place, index] = len(self._columns)
        self._widths: dict[tuple[str, int], int] = {}
        for key in self._columns:
            for pair in self._option(key).widths.items():
                self._widths.setdefault(pair, len(self._columns) + len(self._widths))
        self._scores = self._sum_of(lambda option: option.score)
        self._programme = Programme(len(self._columns) + len(self._widths), list(self._consistency()))

    def column(self, place: int, option: int) -> int:
        """Return the variable that is 1 if the option is chosen."""
        return self._columns[place, option]

    def solve(self, rows: Iterable[Row], limits: Mapping[str, Limit]) -> Selection | None:
        """Return the selection of the best score, None if there is none."""
        return self._optimum(self._scores, rows, limits)

    def extreme(self, cost: str, end: Literal["low", "high"], limits: Mapping[str, Limit]) -> Selection | None:
        """Return the cheapest selection (the dearest, for a low end) by one cost, None if there is none."""
        sign = 1.0 if end == "high" else -1.0
        return self._optimum(self._sum_of(lambda option: sign * option.costs.get(cost, 0.0)), (), limits)

    def conflict(self, limits: Mapping[str, Limit]) -> tuple[End, ...]:
        """See the function of this name: each end in turn is left out for good if the others fail without it too."""
        if self.solve((), limits) is not None:
            return ()
        if self.solve((), {}) is None:
            raise BudgetError("nothing can be assembled: no alternatives of all blocks agree on the shared widths.")
        kept = _ends(limits)
        for end in list(kept):
            rest = [other for other in kept if other != end]
            if self.solve((), _of_ends(limits, rest)) is None:
                kept = rest
        return tuple(kept)

    def why_not(self, limits: Mapping[str, Limit]) -> str:
        """Say in one sentence which limits cannot be met together, and how near the first comes under the others."""
        ends = self.conflict(limits)
        (name, end), rest = ends[0], ends[1:]
        nearest = self.extreme(name, end, _of_ends(limits, rest))
        assert nearest is not None  # or the conflict would not be minimal
        said = " and ".join(f"'{one[0]}' ({_of_ends(limits, [one])[one[0]].text(one[0])})" for one in ends)
        word = "least" if end == "high" else "most"
        value = format_cost(name, nearest.costs.get(name, 0.0))
        if not rest:
            return f"no assembly fits the budget: {said} binds; the {word} that any assembly has is {value}."
        met = "the other" if len(rest) == 1 else "the others"
        return (
            f"no assembly fits the budget: {said} cannot be met together; with {met} met, the {word} '{name}' that any "
            f"assembly has is {value}."
        )

    def _optimum(
        self, objective: dict[int, float], rows: Iterable[Row], limits: Mapping[str, Limit]
    ) -> Selection | None:
        rows = [*rows, *(self._limit_row(name, limit) for name, limit in limits.items())]
        while True:
            chosen = self._programme.minimise(objective, rows)
            if chosen is None:
                return None
            selection = self._selection(chosen)
            if all(_meets(limit, selection.costs.get(name, 0.0)) for name, limit in limits.items()):
                return selection
            # The solver lets a row be broken by a millionth; a limit is a limit.
            mine = [self._columns[key] for key in enumerate(selection.options)]
            rows.append(Row(dict.fromkeys(mine, 1.0), high=len(mine) - 1.0))

    def _limit_row(self, name: str, limit: Limit) -> Row:
        return Row(self._sum_of(lambda option: option.costs.get(name, 0.0)), limit.low, limit.high)

    def _consistency(self) -> Iterable[Row]:
        for place in range(len(self.places)):
            mine = {key: column for key, column in self._columns.items() if key[0] == place}
            yield Row(dict.fromkeys(mine.values(), 1.0), 1.0, 1.0)
            for group in dict.fromkeys(group for key in mine for group in self._option(key).widths):
                # Options that leave the group free go with each of its widths.
                free = any(group not in self._option(key).widths for key in mine)
                for (other, width), shared in self._widths.items():
                    if other == group:
                        needing = [mine[key] for key in mine if self._option(key).widths.get(group) == width]
                        yield Row({**dict.fromkeys(needing, 1.0), shared: -1.0}, None if free else 0.0, 0.0)
        for group in dict.fromkeys(group for group, _ in self._widths):
            yield Row({column: 1.0 for (other, _), column in self._widths.items() if other == group}, 1.0, 1.0)

    def _selection(self, chosen: Sequence[int]) -> Selection:
        taken = set(chosen)
        options = {place: option for (place, option), column in self._columns.items() if column in taken}
        picked = [self.places[place].options[option] for place, option in sorted(options.items())]
        names = dict.fromkeys(name for option in picked for name in option.costs)
        return Selection(
            options=tuple(options[place] for place in range(len(self.places))),
            widths={group: width for (group, width), column in self._widths.items() if column in taken},
            costs={name: math.fsum(option.costs.get(name, 0.0) for option in picked) for name in names},
            score=math.fsum(option.score for option in picked),
        )

    def _option(self, key: tuple[int, int]) -> Option:
        return self.places[key[0]].options[key[1]]

    def _sum_of(self, value: Callable[[Option], float]) -> dict[int, float]:
        """Return the coefficients of a sum over the chosen options."""
        return {column: value(self._option(key)) for key, column in self._columns.items()}


def _meets(limit: Limit, cost: float) -> bool:
    return limit.excess(cost) == 0


def _ends(limits: Mapping[str, Limit]) -> list[End]:
    lows: list[End] = [(name, "low") for name, limit in limits.items() if limit.low is not None]
    highs: list[End] = [(name, "high") for name, limit in limits.items() if limit.high is not None]
    return lows + highs


def _of_ends(limits: Mapping[str, Limit], ends: Iterable[End]) -> dict[str, Limit]:
    """Return the limits with these ends alone."""
    found: dict[str, Limit] = {}
    for name, end in ends:
        before = found.get(name, Limit())
        low = limits[name].low if end == "low" else before.low
        high = limits[name].high if end == "high" else before.high
        found[name] = Limit(low, high)
    return found


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
