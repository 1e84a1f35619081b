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

from nas_distill.blockwise.alternatives import Decision, Option, Selection
from nas_distill.costs.budget import Limit
from nas_distill.costs.registry import format_cost
from nas_distill.utils.errors import BudgetError

_ROW_SPAN, _GOAL_SPAN = 1e2, 1e4
"""Largest terms of scaled rows and objectives; the solver's tolerances are absolute (1e-6). Rows of ones stay as is."""


@dataclass(frozen=True)
class Row:
    """A linear constraint ``low <= sum of coefficient * variable <= high``; None means no bound."""

    terms: Mapping[int, float]
    low: float | None = None
    high: float | None = None


class IntegerProgram:
    """A 0-1 integer program with ``variables`` binaries and constraints common to all solves."""

    def __init__(self, variables: int, rows: Sequence[Row]) -> None:
        self._variables = variables
        self._rows = list(rows)

    def minimise(self, objective: Mapping[int, float], rows: Sequence[Row]) -> list[int] | None:
        """Return the variables that are 1 at the minimum of ``objective``, ascending; None if no values are feasible.

        The minimum is exact: the solver's optimality gap is 0.

        Raises:
            BudgetError: the solver fails.
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
            raise BudgetError(f"the integer program could not be solved ({str(solved.message).strip().rstrip('.')}).")
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
    """Suppress writes of native code to this process's standard output.

    HiGHS prints a message that no option turns off, which would corrupt a command's JSON.
    """
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        with suppress(AttributeError, OSError, TypeError):  # on platforms where C's buffers cannot be flushed
            ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


End = tuple[str, Literal["low", "high"]]
"""One end of the limit on a cost."""


class AssemblyProgram:
    """The integer program of decisions: one binary per option, and one per width of each shared group."""

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.decisions = decisions
        self._columns: dict[tuple[int, int], int] = {}
        for position, decision in enumerate(decisions):
            usable = [index for index, option in enumerate(decision.options) if math.isfinite(option.score)]
            if not usable:
                raise BudgetError(
                    f"nothing can be assembled: '{decision.name}' has no alternative with a finite score; train the "
                    "blocks again with a lower learning rate."
                )
            for index in usable:
                self._columns[position, index] = len(self._columns)
        self._widths: dict[tuple[str, int], int] = {}
        for key in self._columns:
            for pair in self._option(key).widths.items():
                self._widths.setdefault(pair, len(self._columns) + len(self._widths))
        self._scores = self._sum_of(lambda option: option.score)
        self._program = IntegerProgram(len(self._columns) + len(self._widths), list(self._consistency()))

    def column(self, decision: int, option: int) -> int:
        """Return the variable that is 1 if the option is chosen."""
        return self._columns[decision, option]

    def solve(self, rows: Iterable[Row], limits: Mapping[str, Limit]) -> Selection | None:
        """Return the selection with the best score; None if there is none."""
        return self._optimum(self._scores, rows, limits)

    def extreme(self, cost: str, end: Literal["low", "high"], limits: Mapping[str, Limit]) -> Selection | None:
        """Return the cheapest selection (for a low end, the most expensive) by one cost; None if there is none."""
        sign = 1.0 if end == "high" else -1.0
        return self._optimum(self._sum_of(lambda option: sign * option.costs.get(cost, 0.0)), (), limits)

    def conflict(self, limits: Mapping[str, Limit]) -> tuple[End, ...]:
        """Return a minimal set of ends in conflict; see the function ``conflict``.

        Each end in turn is removed if the remaining ones are still in conflict.
        """
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
        """Return a sentence that names the limits in conflict, and the nearest value of the first under the others."""
        ends = self.conflict(limits)
        (name, end), rest = ends[0], ends[1:]
        nearest = self.extreme(name, end, _of_ends(limits, rest))
        assert nearest is not None  # otherwise the conflict would not be minimal
        named = " and ".join(f"'{one[0]}' ({_of_ends(limits, [one])[one[0]].text(one[0])})" for one in ends)
        extreme = "least" if end == "high" else "most"
        value = format_cost(name, nearest.costs.get(name, 0.0))
        if not rest:
            return f"no assembly fits the budget: {named} binds; the {extreme} that any assembly has is {value}."
        met = "the other" if len(rest) == 1 else "the others"
        return (
            f"no assembly fits the budget: {named} cannot be met together; with {met} met, the {extreme} '{name}' that "
            f"any assembly has is {value}."
        )

    def _optimum(
        self, objective: dict[int, float], rows: Iterable[Row], limits: Mapping[str, Limit]
    ) -> Selection | None:
        rows = [*rows, *(self._limit_row(name, limit) for name, limit in limits.items())]
        while True:
            chosen = self._program.minimise(objective, rows)
            if chosen is None:
                return None
            selection = self._selection(chosen)
            if all(_meets(limit, selection.costs.get(name, 0.0)) for name, limit in limits.items()):
                return selection
            # The solver's tolerance allows rows to be violated by a millionth; limits are exact, so exclude this one.
            columns = [self._columns[key] for key in enumerate(selection.options)]
            rows.append(Row(dict.fromkeys(columns, 1.0), high=len(columns) - 1.0))

    def _limit_row(self, name: str, limit: Limit) -> Row:
        return Row(self._sum_of(lambda option: option.costs.get(name, 0.0)), limit.low, limit.high)

    def _consistency(self) -> Iterable[Row]:
        for decision in range(len(self.decisions)):
            columns = {key: column for key, column in self._columns.items() if key[0] == decision}
            yield Row(dict.fromkeys(columns.values(), 1.0), 1.0, 1.0)
            for group in dict.fromkeys(group for key in columns for group in self._option(key).widths):
                # Options that do not require a width of the group are compatible with each of its widths.
                free = any(group not in self._option(key).widths for key in columns)
                for (other, width), shared in self._widths.items():
                    if other == group:
                        needing = [columns[key] for key in columns if self._option(key).widths.get(group) == width]
                        yield Row({**dict.fromkeys(needing, 1.0), shared: -1.0}, None if free else 0.0, 0.0)
        for group in dict.fromkeys(group for group, _ in self._widths):
            yield Row({column: 1.0 for (other, _), column in self._widths.items() if other == group}, 1.0, 1.0)

    def _selection(self, chosen: Sequence[int]) -> Selection:
        ones = set(chosen)
        options = {decision: option for (decision, option), column in self._columns.items() if column in ones}
        picked = [self.decisions[decision].options[option] for decision, option in sorted(options.items())]
        names = dict.fromkeys(name for option in picked for name in option.costs)
        return Selection(
            options=tuple(options[decision] for decision in range(len(self.decisions))),
            widths={group: width for (group, width), column in self._widths.items() if column in ones},
            costs={name: math.fsum(option.costs.get(name, 0.0) for option in picked) for name in names},
            score=math.fsum(option.score for option in picked),
        )

    def _option(self, key: tuple[int, int]) -> Option:
        return self.decisions[key[0]].options[key[1]]

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
    """Return the limits with only these ends."""
    found: dict[str, Limit] = {}
    for name, end in ends:
        before = found.get(name, Limit())
        low = limits[name].low if end == "low" else before.low
        high = limits[name].high if end == "high" else before.high
        found[name] = Limit(low, high)
    return found


def best(decisions: Sequence[Decision], limits: Mapping[str, Limit]) -> Selection:
    """Return the selection with the lowest score within all limits.

    Raises:
        BudgetError: there is none; the error names the limits in conflict and the nearest value of the first.
    """
    return diverse(decisions, limits, count=1)[0]


def diverse(
    decisions: Sequence[Decision], limits: Mapping[str, Limit], *, count: int, overlap: float = 1.0
) -> list[Selection]:
    """Return up to ``count`` selections within the limits, each the best of those unlike the ones before it.

    Two are unlike if they have the same option in at most ``overlap`` of the decisions that count, and never in all.
    The list is shorter if no others exist. Scores are ascending.

    Raises:
        BudgetError: see ``best``.
    """
    program = AssemblyProgram(decisions)
    counted = [index for index, decision in enumerate(decisions) if decision.counts]
    alike = min(math.floor(overlap * len(counted) + 1e-9), len(counted) - 1)
    found: list[Selection] = []
    rows: list[Row] = []
    while len(found) < count:
        selection = program.solve(rows, limits)
        if selection is None:
            break
        found.append(selection)
        if alike < 0:
            break
        rows.append(Row({program.column(index, selection.options[index]): 1.0 for index in counted}, high=float(alike)))
    if not found:
        raise BudgetError(program.why_not(limits))
    return found


def sweep(
    decisions: Sequence[Decision], limits: Mapping[str, Limit], cost: str, points: int | Sequence[float]
) -> list[Selection]:
    """Return the front of score and ``cost`` within the limits on the other costs, from cheap to expensive.

    ``points``: the upper limits on ``cost`` to solve for, or their number, at equal ratios from the cheapest selection
    to the one with the best score. Infeasible points are skipped, and returned selections do not dominate each other.

    Raises:
        BudgetError: nothing meets the other limits.
    """
    others = {name: limit for name, limit in limits.items() if name != cost}
    low = limits[cost].low if cost in limits else None
    program = AssemblyProgram(decisions)
    top = program.solve([], others)
    cheapest = program.extreme(cost, "high", others)
    if top is None or cheapest is None:
        raise BudgetError(program.why_not(others))
    ends = (cheapest.costs.get(cost, 0.0), top.costs.get(cost, 0.0))
    highs = _between(*ends, points) if isinstance(points, int) else sorted(points)
    found: list[Selection] = []
    for high in highs:
        selection = program.solve([], {**others, cost: Limit(low, high)})
        if selection is not None:
            found.append(selection)
    return _undominated(found, cost)


def conflict(decisions: Sequence[Decision], limits: Mapping[str, Limit]) -> tuple[End, ...]:
    """Return a minimal set of ends of limits that cannot be met together; empty if all limits can be met.

    Raises:
        BudgetError: no options are compatible, whatever the limits.
    """
    return AssemblyProgram(decisions).conflict(limits)


def _between(low: float, high: float, points: int) -> list[float]:
    """Return ``points`` amounts from ``low`` to ``high`` inclusive, at equal ratios if ``low`` is above 0."""
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
