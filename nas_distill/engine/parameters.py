"""Architectures as the parameters of an Optuna trial, with their distributions."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

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
