"""A programme over binaries alone: minimise a sum of them under bounds on other sums, by HiGHS."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from nas_distill.common.errors import BudgetError

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
