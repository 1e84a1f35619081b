"""Samplers that the benchmark compares with, beside those of the registry and of Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_distill.engine.candidates import Pricing
from nas_distill.engine.objectives import Objectives
from nas_distill.engine.parameters import as_params
from nas_distill.engine.samplers import Past
from nas_distill.engine.samplers.acquisition import undominated
from nas_distill.spaces import Architecture, Domain, SearchSpace
from nas_distill.spaces.architecture import Scalar

_TRIES = 100  # draws in search of a child within the budget that is new


class Evolution(BaseSampler):  # type: ignore[misc]
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
        self._space, self._pricing, self._objectives, self._history = space, pricing, objectives, history
        self._population, self._tournament = population, tournament
        self._chosen: dict[str, Any] = {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Breed the child."""
        seen = {each.architecture.hash for each in self._history}
        alive = [each for each in self._history if each.state == "complete" and each.scores][-self._population :]
        child = self._space.sample(self._rng)
        for _ in range(_TRIES):
            child = self._space.sample(self._rng) if len(alive) < self._population else self._mutated(alive)
            costs = None if child.hash in seen else self._pricing.known(child)
            if costs is not None and self._pricing.budget.fits(costs):
                break
        self._chosen, _ = as_params(self._space, child)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing."""
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Return a parameter of the child."""
        return self._chosen[name]

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
