"""Samplers that the benchmark compares with, beside those of the registry and of Optuna."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas_distill.engine.candidates import Pricing
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.samplers import ArchitectureSampler, Past
from nas_distill.engine.samplers.acquisition import undominated
from nas_distill.spaces import Architecture, Domain, SearchSpace
from nas_distill.spaces.architecture import Scalar

_TRIES = 100  # draws in search of a child within the budget that is new


class Evolution(ArchitectureSampler):
    """Regularized evolution: the best of a few of the latest candidates, with one parameter drawn again.

    Real et al., Regularized evolution for image classifier architecture search, AAAI 2019. With costs as objectives,
    the parent is one of the undominated ones at random. It prices each child, and proposes none that is over budget
    or repeats an earlier one, as far as it finds another.
    """

    def __init__(
        self,
        seed: int,
        space: SearchSpace,
        pricing: Pricing,
        objectives: Objectives,
        history: Sequence[Past],
        population: int = 20,
        tournament: int = 8,
    ) -> None:
        self._rng = np.random.default_rng(seed)
        super().__init__(space)
        self._pricing, self._objectives, self._history = pricing, objectives, history
        self._population, self._tournament = population, tournament

    def propose(self) -> Architecture:
        """Breed a child."""
        seen = {each.architecture.hash for each in self._history}
        alive = [each for each in self._history if each.state == "complete" and each.scores][-self._population :]
        child = self._space.sample(self._rng)
        for _ in range(_TRIES):
            child = self._space.sample(self._rng) if len(alive) < self._population else self._mutated(alive)
            costs = None if child.hash in seen else self._pricing.known(child)
            if costs is not None and self._pricing.budget.fits(costs):
                break
        return child

    def _mutated(self, alive: Sequence[Past]) -> Architecture:
        rng = self._rng
        drawn = [alive[index] for index in rng.permutation(len(alive))[: self._tournament]]
        quality = np.array([each.scores[max(each.scores)] for each in drawn])
        costs = np.array([[each.costs[name] for name in self._objectives.costs] for each in drawn])
        best = undominated(quality, costs.reshape(len(drawn), -1))
        values = self._space.flatten(drawn[int(rng.choice(best))].architecture)
        changed = str(rng.choice(list(values)))

        def choose(name: str, domain: Domain) -> Scalar:
            return domain.at(int(rng.integers(len(domain)))) if name == changed or name not in values else values[name]

        return self._space.draw(choose)
