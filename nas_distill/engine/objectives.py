"""Objectives of a search, and the pruning rule that compares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas_distill.config import PruningConfig, SearchConfig
from nas_distill.costs.budget import parse_amount
from nas_distill.engine.early_stopping import Dominance, NoRule, Rule


@dataclass(frozen=True)
class Scalar:
    """MnasNet's soft reward (Tan et al. 2019), ``quality * (cost / target) ** exponent``; higher is better.

    ``target`` is in the plain unit of ``cost``; ``exponent`` is at most 0.
    """

    cost: str
    target: float
    exponent: float = -0.07

    def reward(self, quality: float, costs: Mapping[str, float]) -> float:
        """Return the reward; a cost of 0 counts as a billionth of the target.

        A quality below 0, as R^2 may have, is divided by the factor, so that a higher cost is never a gain.
        """
        factor = max(costs[self.cost] / self.target, 1e-9) ** self.exponent
        result: float = quality * factor if quality >= 0 else quality / factor
        return result


@dataclass(frozen=True)
class Objectives:
    """Quality (maximised) and ``costs`` (minimised), or only ``scalar`` (maximised)."""

    costs: tuple[str, ...]
    scalar: Scalar | None = None

    @classmethod
    def from_config(cls, search: SearchConfig, teacher_costs: Mapping[str, float] | None = None) -> Objectives:
        """Read the objectives of a search file; a scalar's target in percent is of ``teacher_costs``.

        Raises:
            BudgetError: the scalar's cost is unknown, or its target cannot be read.
        """
        if search.scalar is None:
            return cls(search.objectives)
        name = search.scalar.cost
        target = parse_amount(search.scalar.target, name, (teacher_costs or {}).get(name))
        return cls(search.objectives, Scalar(name, target, search.scalar.exponent))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objective values, in order."""
        return ("quality", *self.costs) if self.scalar is None else ("reward",)

    @property
    def directions(self) -> tuple[str, ...]:
        """``maximize`` or ``minimize`` for each objective value."""
        return ("maximize", *("minimize" for _ in self.costs)) if self.scalar is None else ("maximize",)

    @property
    def compared(self) -> tuple[str, ...]:
        """Names of the costs that decide dominance: all cost objectives, or only the scalar's."""
        return self.costs if self.scalar is None else (self.scalar.cost,)

    def values(self, quality: float, costs: Mapping[str, float]) -> list[float]:
        """Return the objective values of a candidate of ``quality`` (higher is better) and ``costs``."""
        if self.scalar is not None:
            return [self.scalar.reward(quality, costs)]
        return [quality, *(float(costs[name]) for name in self.costs)]


def make_rule(pruning: PruningConfig, objectives: Objectives, margin: float | tuple[float, ...] | None = None) -> Rule:
    """Return the pruning rule of a search file; ``margin`` (one, or one a rung) stands in for the file's.

    Raises:
        ValueError: the file's margin is ``auto`` and no measured one is given.
    """
    if pruning.rule == "none":
        return NoRule()
    if margin is None:
        if pruning.margin == "auto":
            raise ValueError("the margin is 'auto': measure it before the search and give it")
        margin = pruning.margin
    return Dominance(
        costs=objectives.compared,
        margin=margin,
        min_dominators=pruning.min_dominators,
        min_reports=pruning.min_reports,
        tolerance=pruning.tolerance,
    )
