"""The feasible architectures of a small space, by enumeration."""

from __future__ import annotations

from collections.abc import Collection

from nas_distill.engine.candidates import Pricing
from nas_distill.spaces import Architecture, SearchSpace


class FeasibleSet:
    """All architectures of a space that are worth trying, once ``enumerate`` has counted the costs.

    ``architectures`` fit the budget, or cannot be built, so that a search records why; in the order of
    ``SearchSpace.every``. ``fitting`` counts the former. ``over`` has the costs of those that do not fit.
    """

    def __init__(self, space: SearchSpace, pricing: Pricing) -> None:
        self._space = space
        self._pricing = pricing
        self.found = False
        self.architectures: tuple[Architecture, ...] = ()
        self.fitting = 0
        self.over: list[dict[str, float]] = []

    def enumerate(self, limit: int) -> None:
        """Count the costs of every architecture, if there are limits and the space has at most ``limit`` of them.

        Raises:
            StorageError: a disk is full.
        """
        size = self._space.size()
        if self.found or not self._pricing.budget.limits or not size.exact or size.count > limit:
            return
        kept: list[Architecture] = []
        for architecture in self._space.every():
            costs = self._pricing.known(architecture)
            if costs is not None and not self._pricing.budget.fits(costs):
                self.over.append(costs)
                continue
            self.fitting += costs is not None
            kept.append(architecture)
        self.architectures, self.found = tuple(kept), True

    def exhausted(self, seen: Collection[str]) -> bool:
        """Return whether the hash of every feasible architecture is in ``seen``."""
        return all(architecture.hash in seen for architecture in self.architectures)

    def left(self, seen: Collection[str]) -> list[Architecture]:
        """Return the architectures worth trying whose hash is not in ``seen``."""
        return [architecture for architecture in self.architectures if architecture.hash not in seen]
