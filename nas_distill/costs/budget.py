"""Budgets: hard limits on costs, violations of them, and the limit that binds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nas_distill.costs.registry import SUFFIXES, CostInfo, cost_info, format_cost
from nas_distill.utils.errors import BudgetError, did_you_mean, first_line

_AMOUNT = re.compile(r"\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s]*)\s*", re.ASCII)


def parse_amount(amount: float | str, name: str, teacher: float | None = None) -> float:
    """Read an amount of the cost ``name``, in its plain unit (a count, bytes, ms).

    ``amount`` is a number in the plain unit, or text: counts take ``k``, ``M``, ``G``, ``T`` (decimal), bytes ``B``,
    ``KB``/``MB``/``GB`` (decimal) and ``KiB``/``MiB``/``GiB`` (binary), times ``ms``, ``us`` and ``s`` (plain: ms).
    ``"50%"`` is that share of ``teacher``, the teacher's own cost.

    Raises:
        BudgetError: unknown cost, not an amount, a unit of another cost, negative or not finite, or percent without
            the teacher's cost.
    """
    info = cost_info(name)
    if isinstance(amount, bool) or not isinstance(amount, int | float | str):
        raise BudgetError(f"budget '{name}' is {amount!r}, which is not an amount; {_examples(info)}.")
    if not isinstance(amount, str):
        try:
            return _checked(float(amount), amount, info)
        except OverflowError as error:
            raise BudgetError(f"budget '{name}' is too large for a number.") from error
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise BudgetError(f"budget '{name}' is '{amount}', which is not an amount; {_examples(info)}.")
    number = float(match[1].replace("_", ""))
    if match[2] == "%":
        return _percent(number, amount, info, teacher)
    return _checked(number * _size(match[2], amount, info), amount, info)


def _percent(number: float, amount: str, info: CostInfo, teacher: float | None) -> float:
    if teacher is None:
        raise BudgetError(
            f"budget '{info.name}' is '{amount}' of the teacher's, but the teacher's {info.name} is not known here; "
            f"give an absolute amount ({_examples(info)})."
        )
    if not (math.isfinite(teacher) and teacher > 0):
        raise BudgetError(
            f"budget '{info.name}' is '{amount}' of the teacher's, but the teacher's is {teacher:g}; give an absolute "
            f"amount ({_examples(info)})."
        )
    return _checked(number / 100 * teacher, amount, info)


def _size(suffix: str, amount: str, info: CostInfo) -> float:
    if info.family == "other":
        if suffix.lower() not in ("", info.unit.lower()):
            raise BudgetError(f"budget '{info.name}' is '{amount}', but '{suffix}' is not its unit; {_examples(info)}.")
        return 1.0
    sizes = SUFFIXES[info.family]
    suffix = suffix.replace("µ", "u").replace("μ", "u")
    if suffix == "" or (info.family == "count" and suffix == "K"):
        return sizes[suffix.lower()] if info.family == "count" else 1.0
    # No two units of bytes or times differ only in case, so 512kib and 5MS are unambiguous; m and M of counts are not.
    known = {unit.lower(): size for unit, size in sizes.items()} if info.family != "count" else sizes
    key = suffix.lower() if info.family != "count" else suffix
    if key in known:
        return known[key]
    if info.family == "bytes" and key in ("k", "m", "g", "t"):
        unit = key.upper()
        raise BudgetError(f"budget '{info.name}' is '{amount}': write {unit}B (decimal) or {unit}iB (binary).")
    raise BudgetError(f"budget '{info.name}' is '{amount}', with the unknown unit '{suffix}'; {_examples(info)}.")


def _checked(value: float, amount: float | str, info: CostInfo) -> float:
    if not math.isfinite(value) or value < 0:
        raise BudgetError(f"budget '{info.name}' is {amount}, which is negative or not finite.")
    return value


def _examples(info: CostInfo) -> str:
    if info.family == "other":
        return f"write it like 5{info.unit}, or % of the teacher's"
    units = ", ".join(unit for unit in SUFFIXES[info.family] if unit)
    example = {"count": "2M", "bytes": "512KiB", "time": "0.5ms"}[info.family]
    return f"write it like {example}, units: {units}, or % of the teacher's"


@dataclass(frozen=True)
class Limit:
    """A closed range of one cost, in its plain unit; an end that is None is open."""

    low: float | None = None
    high: float | None = None

    def excess(self, cost: float) -> float:
        """Return the excess of ``cost`` relative to the violated end; 0 within the range, inf for NaN."""
        if math.isnan(cost):
            return math.inf
        if self.high is not None and cost > self.high:
            return (cost - self.high) / self.high if self.high > 0 else math.inf
        if self.low is not None and cost < self.low:
            return (self.low - cost) / self.low if self.low > 0 else math.inf
        return 0.0

    def text(self, name: str) -> str:
        """Write the limit of the cost ``name``: ``"at most 2 M"``, ``"1 M to 2 M"``."""
        if self.low is None or self.high is None:
            side, end = ("at most", self.high) if self.low is None else ("at least", self.low)
            return "free" if end is None else f"{side} {format_cost(name, end)}"
        return f"{format_cost(name, self.low)} to {format_cost(name, self.high)}"


class Budget:
    """Limits on costs, by name. Immutable; equal when the limits are equal; independent of the teacher once parsed."""

    def __init__(self, limits: Mapping[str, Limit] | None = None) -> None:
        self._limits = MappingProxyType(dict(limits or {}))

    @classmethod
    def parse(cls, mapping: Mapping[str, Any], teacher_costs: Mapping[str, float] | None = None) -> Budget:
        """Read a budget as written in a search file or on the command line.

        Each value is an amount (``parse_amount``; an upper limit), ``{min: ..., max: ...}`` or ``[low, high]``.
        Percentages are of ``teacher_costs``.

        Raises:
            BudgetError: unknown cost or key, an invalid amount, a range with its ends swapped, or percent without the
                teacher's cost.
        """
        if not isinstance(mapping, Mapping):
            raise BudgetError(f"a budget must map costs to limits, as in {{flops: 2M}}, but it is {mapping!r}.")
        costs = teacher_costs or {}
        return cls({name: _parse_limit(value, name, costs.get(name)) for name, value in mapping.items()})

    @classmethod
    def restore(cls, stored: Mapping[str, Mapping[str, float]]) -> Budget:
        """Read the output of ``to_dict``; the costs need not be registered in this process.

        Raises:
            BudgetError: ``stored`` has another form.
        """
        try:
            ends = {name: (limit.get("min"), limit.get("max")) for name, limit in stored.items()}
            return cls({name: Limit(*(None if end is None else float(end) for end in ends[name])) for name in ends})
        except (AttributeError, TypeError, ValueError) as error:
            raise BudgetError(f"a stored budget cannot be read ({first_line(error)}).") from error

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The limits by cost name, in the order given."""
        return self._limits

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the costs with a limit, in the order given."""
        return tuple(self._limits)

    def violations(self, costs: Mapping[str, float]) -> dict[str, float]:
        """Return the relative excess over each violated limit (0.5 is half as much again); empty when all are met.

        Raises:
            BudgetError: ``costs`` lacks a cost that has a limit.
        """
        excess = {name: limit.excess(_of(costs, name)) for name, limit in self._limits.items()}
        return {name: amount for name, amount in excess.items() if amount > 0}

    def below(self, costs: Mapping[str, float]) -> bool:
        """Return whether ``costs`` violate only lower ends, and at least one of them."""
        missed = self.violations(costs)
        lows = ((self._limits[name].low, costs[name]) for name in missed)
        return bool(missed) and all(low is not None and cost < low for low, cost in lows)

    def fits(self, costs: Mapping[str, float]) -> bool:
        """Return whether every limit is met."""
        return not self.violations(costs)

    def binding(self, candidates: Sequence[Mapping[str, float]]) -> str | None:
        """Return the name of the limit that the fewest ``candidates`` (given by their costs) meet, the first of equals.

        Return None without limits or candidates.
        """
        if not self._limits or not candidates:
            return None
        met = {
            name: sum(limit.excess(_of(costs, name)) == 0 for costs in candidates)
            for name, limit in self._limits.items()
        }
        return min(met, key=lambda name: met[name])

    def nearest(self, candidates: Sequence[Mapping[str, float]], name: str) -> int:
        """Return the index of the candidate nearest to (or furthest inside) the limit on ``name``.

        It is the cheapest by this cost, or the most expensive where all candidates are below the lower end.
        """
        limit = self._limits[name]
        below = limit.low is not None and all(_of(costs, name) < limit.low for costs in candidates)
        order = sorted(range(len(candidates)), key=lambda index: _of(candidates[index], name))
        return order[-1 if below else 0]

    def infeasible(self, candidates: Sequence[Mapping[str, float]]) -> str:
        """Return one sentence on why no candidate fits: the limit that binds, and the candidate nearest to it."""
        name = self.binding(candidates)
        if name is None:
            return "no candidate could be built."
        index = self.nearest(candidates, name)
        value = _of(candidates[index], name)
        met = sum(self._limits[name].excess(_of(costs, name)) == 0 for costs in candidates)
        low = self._limits[name].low
        word = "most expensive" if low is not None and value < low else "cheapest"
        rest = {key: value for key, value in self.violations(candidates[index]).items() if key != name}
        also = "".join(f", and violates the limit on '{other}' too" for other in list(rest)[:1]) if met else ""
        return (
            f"none of {len(candidates)} candidates fits the budget: '{name}' ({self._limits[name].text(name)}) binds, "
            f"met by {met} of them; the {word} found has {format_cost(name, value)}{also}."
        )

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Return the limits as plain numbers, in a form that ``parse`` reads back."""
        ends = {name: {"min": limit.low, "max": limit.high} for name, limit in self._limits.items()}
        return {name: {key: value for key, value in limit.items() if value is not None} for name, limit in ends.items()}

    def text(self) -> str:
        """Write all limits on one line: ``"flops at most 2 M, params at most 60 k"``; ``"no limits"`` for none."""
        return ", ".join(f"{name} {limit.text(name)}" for name, limit in self._limits.items()) or "no limits"

    def __eq__(self, other: object) -> bool:
        return dict(self._limits) == dict(other._limits) if isinstance(other, Budget) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(sorted(self._limits.items(), key=lambda item: item[0])))

    def __bool__(self) -> bool:
        return bool(self._limits)

    def __repr__(self) -> str:
        return f"Budget({self.text()})"

    def __reduce__(self) -> tuple[type[Budget], tuple[dict[str, Limit]]]:
        # A mapping proxy cannot be pickled, and a budget is sent to worker processes.
        return Budget, (dict(self._limits),)


def _parse_limit(value: Any, name: str, teacher: float | None) -> Limit:
    cost_info(name)
    if isinstance(value, Mapping):
        for key in value:
            if key not in ("min", "max"):
                raise BudgetError(
                    f"budget '{name}' has the unknown key '{key}'{did_you_mean(str(key), ('min', 'max'))}"
                )
        low, high = value.get("min"), value.get("max")
    elif isinstance(value, list | tuple):
        if len(value) != 2:
            raise BudgetError(f"budget '{name}' is a list of length {len(value)}; a range has two ends, [low, high].")
        low, high = value
    else:
        low, high = None, value
    if low is None and high is None:
        raise BudgetError(f"budget '{name}' limits nothing; give an amount, or min or max.")
    limit = Limit(*(None if end is None else parse_amount(end, name, teacher) for end in (low, high)))
    if limit.high == 0:
        raise BudgetError(f"budget '{name}' is 0, which nothing can meet.")
    if limit.low is not None and limit.high is not None and limit.low > limit.high:
        raise BudgetError(f"budget '{name}' is a range from {low} to {high}: its lower end is above the upper one.")

    return limit


def _of(costs: Mapping[str, float], name: str) -> float:
    if name not in costs:
        raise BudgetError(f"the budget limits '{name}', which was not counted for this candidate.")
    return float(costs[name])
