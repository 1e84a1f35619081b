"""Pricing of architectures: what each costs, asked once, and whether that is within the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Self

from nas_distill.common.errors import BuildError, StorageError, first_line
from nas_distill.cost.budget import Budget
from nas_distill.cost.latency import LatencyModel
from nas_distill.cost.model import CostModel
from nas_distill.engine.candidates import Candidates
from nas_distill.space import Architecture

if TYPE_CHECKING:
    from torch import nn

Costs = Callable[[Architecture], Mapping[str, float]]


class Pricing:
    """Gives the costs of an architecture (lower is better), asking ``costs`` once for each.

    This is the one place where a failure of a user's builder is caught: whatever ``costs`` raises is a BuildError of
    that architecture, except for a full disk, which is no fault of its.

    Args:
        costs: counts or predicts the costs of an architecture.
        budget: limits on them.
        names: of the costs.
        teacher: costs of the teacher, as far as they are known.
        latency: the predictor of latency; None where latency is left out.
    """

    def __init__(
        self,
        costs: Costs,
        budget: Budget | None = None,
        *,
        names: tuple[str, ...] = (),
        teacher: Mapping[str, float] | None = None,
        latency: LatencyModel | None = None,
    ) -> None:
        self.budget = budget or Budget()
        self.names = names
        self.teacher = dict(teacher or {})
        self.latency = latency
        self._costs = costs
        self._known: dict[str, dict[str, float]] = {}

    @classmethod
    def by_model(
        cls, model: CostModel, candidates: Candidates, budget: Budget, teacher: Mapping[str, float] | None = None
    ) -> Self:
        """Price the networks that ``candidates`` builds, in a process of its own, by a cost model."""

        def costs(architecture: Architecture) -> dict[str, float]:
            return dict(candidates.look(architecture, _count, model))

        return cls(costs, budget, names=model.names, teacher=teacher, latency=model.latency)

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Return the costs by name.

        Raises:
            BuildError: the network cannot be built or counted, or a cost is not finite.
            StorageError: a disk is full.
        """
        if architecture.hash not in self._known:
            self._known[architecture.hash] = self._ask(architecture)
        return dict(self._known[architecture.hash])

    def known(self, architecture: Architecture) -> dict[str, float] | None:
        """Return the costs by name, or None where the network cannot be built or counted.

        Raises:
            StorageError: a disk is full.
        """
        try:
            return self(architecture)
        except BuildError:
            return None

    def largest(self, name: str) -> float | None:
        """Return the largest value of a cost seen so far, None before the first."""
        return max((costs[name] for costs in self._known.values()), default=None)

    def _ask(self, architecture: Architecture) -> dict[str, float]:
        try:
            found = {name: float(value) for name, value in self._costs(architecture).items()}
        except (StorageError, BuildError):
            raise
        except Exception as error:
            raise BuildError(first_line(error)) from error
        for name, value in found.items():
            if not math.isfinite(value):
                raise BuildError(f"its {name} is {value}, which is no cost.")
        return found


def _count(module: nn.Module, model: CostModel) -> dict[str, float]:
    return dict(model.costs(module))
