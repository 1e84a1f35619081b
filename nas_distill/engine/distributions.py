"""Parameters of a search space as distributions of Optuna, and back."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas_distill.space import Architecture, Choice, Domain, SearchSpace
from nas_distill.space.parameters import show


def distribution(domain: Domain) -> BaseDistribution:
    """Return a domain as the sampler sees it: evenly spaced integers keep their order, all else is categorical."""
    if domain.ordered:
        return IntDistribution(domain.low, domain.high, step=domain.step)
    return CategoricalDistribution([_told(domain, value) for value in domain.values])


def suggest(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    """Ask a trial for the value of one parameter."""
    told = distribution(domain)
    if isinstance(told, IntDistribution):
        return trial.suggest_int(name, told.low, told.high, step=told.step)
    return _meant(domain, trial.suggest_categorical(name, told.choices))


def as_params(space: SearchSpace, architecture: Architecture) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Return an architecture as a trial's parameters and their distributions."""
    flat = space.flatten(architecture)
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}

    def follow(name: str, domain: Domain) -> Any:
        params[name] = _told(domain, flat[name])
        distributions[name] = distribution(domain)
        return flat[name]

    space.draw(follow)
    return params, distributions


def _told(domain: Domain, value: Any) -> Any:
    """Return a value as the sampler is told it: itself, or its text where Python holds two values for equal."""
    return value if _distinct(domain) else show(value)


def _meant(domain: Domain, told: Any) -> Any:
    if _distinct(domain):
        return told
    return next(value for value in domain.values if show(value) == told)


def _distinct(domain: Domain) -> bool:
    # True == 1 in Python, and a categorical distribution looks its choices up by equality.
    return not isinstance(domain, Choice) or len(set(domain.values)) == len(domain.values)
