"""Places and their options as an integer programme."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from nas_distill.blockwise.options import Option, Place, Selection
from nas_distill.blockwise.programme import Programme, Row
from nas_distill.common.errors import BudgetError
from nas_distill.cost.budget import Limit
from nas_distill.cost.registry import format_cost

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
