"""Optuna's samplers, with the settings that suit searches for architectures."""

from __future__ import annotations

from typing import Annotated

import optuna
from optuna.samplers import BaseSampler
from pydantic import Field

from nas_distill.engine.samplers.registry import sampler


@sampler("tpe")
def tpe(
    *,
    seed: int,
    trials: int,
    dimensions: int,
    startup: Annotated[int, Field(ge=0)] | None = None,
    candidates: Annotated[int, Field(ge=1)] = 24,
) -> BaseSampler:
    """Tree-structured Parzen estimators, of all parameters together, within groups that are active together.

    Bergstra et al., Algorithms for hyper-parameter optimization, NeurIPS 2011; multi-objective: arXiv:2304.11127.

    Args:
        startup: random proposals before the first model; null takes twice the number of parameters, at most a quarter
            of `trials`, and at least 10
        candidates: drawn per proposal, of which the most promising is proposed
    """
    if startup is None:
        startup = max(10, min(2 * dimensions, trials // 4))
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, n_startup_trials=startup, n_ei_candidates=candidates
    )


@sampler("nsga2")
def nsga2(
    *,
    seed: int,
    trials: int,
    population: Annotated[int, Field(ge=2)] | None = None,
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.9,
    mutation: Annotated[float, Field(ge=0, le=1)] | None = None,
) -> BaseSampler:
    """NSGA-II, an evolutionary algorithm: children of the least dominated candidates of the generation before.

    Deb et al., A fast and elitist multiobjective genetic algorithm: NSGA-II, IEEE Trans. Evol. Comput. 6, 2002.

    Args:
        population: candidates per generation; null takes a quarter of `trials`, between 4 and 20
        crossover: probability that a child has two parents
        mutation: probability that a parameter of a child is drawn again; null takes 1 / number of parameters
    """
    size = max(4, min(20, trials // 4)) if population is None else population
    return optuna.samplers.NSGAIISampler(
        seed=seed, population_size=size, crossover_prob=crossover, mutation_prob=mutation
    )


@sampler("random")
def random(*, seed: int) -> BaseSampler:
    """Independent uniform draws of each parameter."""
    return optuna.samplers.RandomSampler(seed=seed)
