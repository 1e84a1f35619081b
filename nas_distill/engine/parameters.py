"""Architectures as the parameters of an Optuna trial, and a sampler that proposes whole architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from nas_distill.spaces import Architecture, Choice, Domain, SearchSpace
from nas_distill.spaces.domains import format_value


def distribution(domain: Domain) -> BaseDistribution:
    """Return the distribution of a domain: evenly spaced integers are ordered, everything else is categorical."""
    if domain.ordered:
        return IntDistribution(domain.low, domain.high, step=domain.step)
    return CategoricalDistribution([_to_choice(domain, value) for value in domain.values])


def suggest(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    """Ask a trial for the value of one parameter."""
    found = distribution(domain)
    if isinstance(found, IntDistribution):
        return trial.suggest_int(name, found.low, found.high, step=found.step)
    return _from_choice(domain, trial.suggest_categorical(name, found.choices))


def as_params(space: SearchSpace, architecture: Architecture) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Return an architecture as a trial's parameters and their distributions."""
    flat = space.flatten(architecture)
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}

    def follow(name: str, domain: Domain) -> Any:
        params[name] = _to_choice(domain, flat[name])
        distributions[name] = distribution(domain)
        return flat[name]

    space.draw(follow)
    return params, distributions


def _to_choice(domain: Domain, value: Any) -> Any:
    """Return the categorical choice of a value: itself, or its text where Python compares two values as equal."""
    return value if _distinct(domain) else format_value(value)


def _from_choice(domain: Domain, choice: Any) -> Any:
    if _distinct(domain):
        return choice
    return next(value for value in domain.values if format_value(value) == choice)


def _distinct(domain: Domain) -> bool:
    # True == 1 in Python, and a categorical distribution looks its choices up by equality.
    return not isinstance(domain, Choice) or len(set(domain.values)) == len(domain.values)


class ArchitectureSampler(BaseSampler, ABC):  # type: ignore[misc]
    """A sampler that chooses whole architectures of ``space``, whose parameters Optuna then asks for one by one."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._chosen: dict[str, Any] = {}

    @abstractmethod
    def propose(self) -> Architecture:
        """Return the architecture of the next trial."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Choose the architecture."""
        self._chosen, _ = as_params(self._space, self.propose())

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: no parameter is drawn before it is asked for."""
        return {}

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        """Return a parameter of the chosen architecture."""
        return self._chosen[name]
