"""The feasible architectures of a small space, by enumeration."""

from __future__ import annotations

from collections.abc import Collection

from nas_distill.engine.candidates import Pricing
from nas_distill.spaces import Architecture, SearchSpace


class FeasibleSet:
    """All architectures of a space that can be built and fit the budget, once ``enumerate`` has counted the costs.

    ``architectures`` are in the order of ``SearchSpace.every``; ``over`` has the costs of those that do not fit.
    """

    def __init__(self, space: SearchSpace, pricing: Pricing) -> None:
        self._space = space
        self._pricing = pricing
        self.found = False
        self.architectures: tuple[Architecture, ...] = ()
        self.over: list[dict[str, float]] = []

    def enumerate(self, limit: int) -> None:
        """Count the costs of every architecture, if there are limits and the space has at most ``limit`` of them.

        Nothing is found where no architecture can be built: the causes are the candidates' own.

        Raises:
            StorageError: a disk is full.
        """
        size = self._space.size()
        if self.found or not self._pricing.budget.limits or not size.exact or size.count > limit:
            return
        fitting: list[Architecture] = []
        over: list[dict[str, float]] = []
        for architecture in self._space.every():
            costs = self._pricing.known(architecture)
            if costs is None:
                continue
            if self._pricing.budget.fits(costs):
                fitting.append(architecture)
            else:
                over.append(costs)
        self.architectures, self.over = tuple(fitting), over
        self.found = bool(fitting or over)

    def exhausted(self, seen: Collection[str]) -> bool:
        """Return whether the hash of every feasible architecture is in ``seen``."""
        return all(architecture.hash in seen for architecture in self.architectures)

    def left(self, seen: Collection[str]) -> list[Architecture]:
        """Return the feasible architectures whose hash is not in ``seen``."""
        return [architecture for architecture in self.architectures if architecture.hash not in seen]
