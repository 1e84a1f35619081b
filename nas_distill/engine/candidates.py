"""Candidates built and priced in a worker process, which user code can end without ending the search."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nas_distill.costs.budget import Budget
from nas_distill.costs.latency import LatencyModel
from nas_distill.costs.model import CostModel
from nas_distill.engine.child import CallError, CallTimeoutError, Child, ChildDiedError
from nas_distill.spaces import Architecture, NetworkBuilder
from nas_distill.utils.errors import BuildError, StorageError, first_line
from nas_distill.utils.files import disk_full_message, first_full_folder

if TYPE_CHECKING:
    from torch import nn


LEAST_SECONDS = 60.0
"""Least time limit of building a candidate and applying a function to it, in seconds."""
SLOWER = 20.0
"""Factor of the slowest candidate so far that gives the time limit."""


class Candidates:
    """Candidates of a space, built in one worker process, which is replaced after a failure.

    Args:
        builder: of the candidates.
        seed: of their initial weights.
        seconds: that a candidate may take; a generous multiple of the slowest so far unless given.
        places: folders that are written to; where the process dies while one is full, no candidate is blamed.
    """

    def __init__(
        self,
        builder: NetworkBuilder,
        *,
        seed: int,
        seconds: float | None = None,
        places: Sequence[Path] = (),
    ) -> None:
        self._child: Child | None = None
        self._fresh = True
        self._source = _NetworkSource(builder, seed)
        self._seconds = seconds
        self._slowest = 0.0
        self._places = places
        self._lost: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def apply(self, architecture: Architecture, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(network, *arguments)`` for the network of an architecture with random weights.

        A failure in a process that has built other candidates is tried again in a new process, since one of them may
        have changed what this one uses; so is the death of a process. A candidate that ended its process or was too
        slow is not tried again.

        Raises:
            BuildError: building or ``function`` failed; the message is the cause, on one line.
            StorageError: it found a disk full.
        """
        if architecture.hash in self._lost:
            raise BuildError(self._lost[architecture.hash])
        if self._child is None:
            self._child = Child(self._source)
        tried_again = False
        while True:
            fresh, self._fresh = self._fresh, False
            began = time.monotonic()
            limit = self._seconds or max(LEAST_SECONDS, SLOWER * self._slowest)
            try:
                found = self._child.call("apply", architecture, function, arguments, seconds=limit)
                self._slowest = max(self._slowest, time.monotonic() - began)
                return found
            except CallTimeoutError as error:
                self.close()
                self._lose(architecture, f"building and counting the network was ended because {error}")
            except CallError as error:
                self.close()
                died = isinstance(error, ChildDiedError)
                if died and (place := first_full_folder(self._places)) is not None:
                    raise StorageError(disk_full_message(place)) from error
                if not tried_again and (died or not fresh):
                    tried_again = True
                elif died:
                    self._lose(architecture, f"the {error} as the network was built and counted")
                else:
                    raise BuildError(str(error)) from None

    def close(self) -> None:
        """End the process; the next call starts another."""
        self._fresh = True
        if self._child is not None:
            self._child.close()

    def _lose(self, architecture: Architecture, cause: str) -> None:
        self._lost[architecture.hash] = cause
        raise BuildError(cause) from None


@dataclass(frozen=True)
class _NetworkSource:
    """Target of the process."""

    builder: NetworkBuilder
    seed: int

    def apply(self, architecture: Architecture, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Build a network and apply a function to it."""
        return function(self.builder.build(architecture, self.seed, stream="costing"), *arguments)


Costs = Callable[[Architecture], Mapping[str, float]]


class Pricing:
    """Costs of architectures (lower is better), each computed once by ``costs``.

    This is the one place where a failure of a user's builder is caught: any error of ``costs`` becomes a BuildError of
    that architecture, except for a full disk, which is not caused by it.

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
        self._failed: dict[str, str] = {}

    @classmethod
    def by_model(
        cls, model: CostModel, candidates: Candidates, budget: Budget, teacher: Mapping[str, float] | None = None
    ) -> Self:
        """Price the networks that ``candidates`` builds, in a process of its own, by a cost model."""

        def costs(architecture: Architecture) -> dict[str, float]:
            return dict(candidates.apply(architecture, _count, model))

        return cls(costs, budget, names=model.names, teacher=teacher, latency=model.latency)

    def __call__(self, architecture: Architecture) -> dict[str, float]:
        """Return the costs by name.

        Raises:
            BuildError: the network cannot be built or counted, or a cost is not finite.
            StorageError: a disk is full.
        """
        if architecture.hash in self._failed:
            raise BuildError(self._failed[architecture.hash])
        if architecture.hash not in self._known:
            try:
                self._known[architecture.hash] = self._ask(architecture)
            except BuildError as error:
                self._failed[architecture.hash] = str(error)
                raise
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

    def within(self, budget: Budget) -> Pricing:
        """Return the same pricing with another budget; the costs that are known are shared."""
        other = copy.copy(self)
        other.budget = budget
        return other

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
                raise BuildError(f"its {name} is {value}, which is not a valid cost.")
        return found


def _count(module: nn.Module, model: CostModel) -> dict[str, float]:
    return dict(model.costs(module))
